"""The built-in defences, one class per file: each determines what the server stores."""

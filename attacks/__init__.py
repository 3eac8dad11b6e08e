"""The built-in attacks, one class per file: they reconstruct or recognise faces from stolen templates."""

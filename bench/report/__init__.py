"""Tables and pictures of a finished run."""

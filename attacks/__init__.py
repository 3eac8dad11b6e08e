"""Ways to rebuild or recognise a face from what was stolen, one class a file."""

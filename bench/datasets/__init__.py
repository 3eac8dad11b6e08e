"""Face sets on disk: loaders, and the alignment that all of them share."""

"""Building blocks for plugins: decoders, training loops, block DCT, precision, progress."""

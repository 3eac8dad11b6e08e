"""What plugins build upon: decoders, training loops, block DCT, precision, progress."""

"""Points of any kind and size, read in chunks."""

"""Trees as tensors: what a table's columns are to them, how rows fall through them, densities in their leaves."""

"""Sets of K distributions over the columns of a table: bits, counts, categories, grids, symbols, several kinds side by side.

`columns.py` builds the set for a space.
"""

"""The forms users have data in (DataFrames, arrays, lists, long frames, y) and the way back: `infer`, `read_table`, `restore_table`
in reading.py, one file a form beside it. Nothing here opens files or knows models.
"""

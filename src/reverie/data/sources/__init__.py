"""Where data come from: `load_data` and `as_dataset` (load.py), and a reader for each kind of file, folder and bundled set.

Readers hand over a `Loaded`; none of them knows the codec.
"""

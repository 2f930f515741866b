"""Data in: `schema` and `table` say what they are, `forms` reads the user's form, `sources` opens files, `dataset` holds examples
and parts, `codec` maps to what networks see (`space`), `batches` deals out. Nothing here imports learning, networks, families or
evaluation; pandas, scikit-learn, Pillow and pyarrow are imported inside functions, so that importing the library stays quick."""

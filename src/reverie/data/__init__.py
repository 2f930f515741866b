"""Data in: schema, tables, datasets, splits, sources and the codec. What a user hands over is described, read and given back here.
Everything here knows files, pandas and arrays, and no model: nothing may import learning, networks, families or evaluation.
pandas, scikit-learn, Pillow and pyarrow are imported inside functions only, so that importing the library stays quick."""

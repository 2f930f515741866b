"""Between data and model space: `fit_codec` (negotiate.py) chooses, the `Codec`s of tables, images and sequences map,
a column step (`steps`) a kind of column. Everything here goes both ways and states its measure; nothing trains.
"""

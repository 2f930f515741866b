"""Between data and model space: `fit_codec` (negotiate.py) chooses, the `Codec`s of tables, images and sequences map, one
column step a kind of column. Everything here goes both ways and states its measure; nothing trains.
"""

"""Networks whose rows or steps belong to a hidden member of a set: mixtures (also with a posterior over parameters), chains.

Inference and statistics; recipes are in `models`.
"""

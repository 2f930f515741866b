"""Memories and machines: Hopfield nets, Boltzmann machines of every kind, deep belief nets, ratings.

One file a family; `stacked.py` and `known_ratings.py` are what some share.
"""

"""Machines with an energy and memories: units, partition functions, restricted, deep, general and conditional machines,
ratings, spins and patterns. Maths only; the rules that train them are in `learning/rules`.
"""

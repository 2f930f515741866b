"""How parameters change: one learning rule a file, each a `Learner` that the trainer runs without asking which.

A rule knows what it asks of a network (the table in docs/architecture.md) and no family.
"""

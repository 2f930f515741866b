"""The families, one a file: the recipe, the network with its maths, and the family's own functions of a Model.

A family imports no other family (`stacked.py` is what the stacks of machines share) and never the store, the evaluation or
the faces.
"""

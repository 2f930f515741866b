"""Distributions as pure functions of tensors: likelihoods of observed columns, exponential families, unit types.

No networks, no training, no data sources.
"""

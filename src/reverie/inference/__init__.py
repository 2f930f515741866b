"""Inference as pure functions of tensors: Gibbs chains, annealed importance sampling, message passing, solvers.

They take functions and tensors; they know no family, network file or data source.
"""

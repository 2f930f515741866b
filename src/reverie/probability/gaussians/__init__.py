"""Gaussians in sets of K: the five shapes of covariance, rows with holes, Student t, and the algebra of small matrices.

Sets of distributions only: who draws a row's member is in `latent`.
"""

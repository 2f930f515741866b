"""Distributions as functions of tensors: exponential families in sets (`components`, `gaussians`), who belongs to which
(`latent`), machines with an energy (`machines`), and the likelihoods that decoders parametrise. No training, no data sources.
"""

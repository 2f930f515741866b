"""Families of networks trained by gradients: autoencoders, VAEs, GANs.

One file a family; families do not import each other.
"""

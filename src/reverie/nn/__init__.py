"""Networks only: layers and the specs users write for them. They know shapes, and no probability, data or training.

What maps tensors to tensors belongs here; a likelihood belongs in `probability`, a family's maths in `models`.
"""

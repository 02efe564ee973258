"""Pretrained models, for teachers and students alike: weights and their digest, models of timm and of transformers.

The modules of timm and of transformers are imported by name, because each takes seconds and needs its library.
"""

from pipeline.pretrained.weights import digest, hub_problem, locate, misfit, read_weights, without_prefix

__all__ = ["digest", "hub_problem", "locate", "misfit", "read_weights", "without_prefix"]

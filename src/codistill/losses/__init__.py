"""Distillation losses: how a student is told that it disagrees with its teachers."""

from codistill.losses.divergences import (
    Divergence,
    as_divergence,
    bernoulli_kl,
    jensen_shannon,
    kl_divergence,
    logit_mse,
    reverse_kl_divergence,
    soft_cross_entropy,
    symmetric_kl_divergence,
)
from codistill.losses.sparse import SparseTarget, sample_top_k, validate_sparse
from codistill.losses.targets import DenseTarget, Target, distillation_term, validate_combine

__all__ = [
    "DenseTarget",
    "Divergence",
    "SparseTarget",
    "Target",
    "as_divergence",
    "bernoulli_kl",
    "distillation_term",
    "jensen_shannon",
    "kl_divergence",
    "logit_mse",
    "reverse_kl_divergence",
    "sample_top_k",
    "soft_cross_entropy",
    "symmetric_kl_divergence",
    "validate_combine",
    "validate_sparse",
]

"""Codistillation in the Trainer of Transformers 5."""

from codistill.extras import check_installed

check_installed("transformers", "transformers")
check_installed("accelerate", "transformers")

from codistill.integrations.transformers.trainer import (  # noqa: E402  # the message comes first
    CodistillationMixin,
    CodistillationTrainer,
)

__all__ = ["CodistillationMixin", "CodistillationTrainer"]

"""A network on numbers and hashed categories that gives one logit."""

from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.lab.tasks.images.mlp import mlp

EMBEDDING_DEVIATION = 0.1
"""Of the initial embeddings, with mean 0: a category that was never seen is to mean little."""


@final
class HashedNetwork(nn.Module):
    """Embeddings of categories beside numbers, ReLU layers, and the logit of class 1.

    The logit has a dimension of its own, so that losses between distributions over classes refuse it;
    [batch] they would take for one distribution over the batch. ``"bernoulli_kl"`` takes it as it is.

    Args:
        numbers: Numeric features, >= 0.
        categories: Columns of categories, >= 1.
        buckets: Buckets of each column, >= 1.
        embedding: Numbers that stand for a bucket, >= 1.
        widths: Units of the hidden layers.
    """

    def __init__(
        self, numbers: int, categories: int, buckets: int, *, embedding: int, widths: tuple[int, ...]
    ) -> None:
        super().__init__()
        # One table for all columns, one after another: a single look-up.
        self.embedding = nn.Embedding(categories * buckets, embedding)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.layers = mlp(numbers + categories * embedding, *widths, 1)
        self.register_buffer("offsets", torch.arange(categories) * buckets, persistent=False)
        self.offsets: Tensor

    @override
    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Return the logit of class 1, [batch, 1].

        Args:
            numbers: float32 [batch, numbers].
            categories: Buckets, int64 [batch, categories], each in [0, buckets).
        """
        embedded = self.embedding(categories + self.offsets).flatten(start_dim=1)
        logits: Tensor = self.layers(torch.cat([numbers, embedded], dim=1))
        return logits

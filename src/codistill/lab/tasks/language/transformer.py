"""A decoder-only transformer language model."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


@final
class TransformerLanguageModel(nn.Module):
    """Blocks of causal attention and a perceptron, normalised before each, as in GPT-2 (Radford et al. 2019).

    Positions are learned, and the output layer scores with the weights of the embedding. Initial weights have
    the standard deviation 0.5 / sqrt(width), near GPT-2's 0.02 at its width of 768; as there it is divided by
    the root of the number of additions where a block adds to its input.

    Args:
        classes: Number of different tokens.
        width: Units of the embedding; a multiple of ``heads``.
        layers: Blocks, >= 1.
        heads: Attention heads of each.
        positions: Most positions of a window.
        dropout: Share of units dropped after the embedding and in each branch, while training.

    Raises:
        ValueError: If the heads do not divide the width.

    Example:
        >>> model = TransformerLanguageModel(50, width=8, layers=1, heads=2, positions=5)
        >>> model(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5, 50])
    """

    def __init__(
        self, classes: int, *, width: int, layers: int, heads: int, positions: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width must be a multiple of heads, got {width} and {heads}. Change one of them."
            )
        self.embedding = nn.Embedding(classes, width)
        self.positions = nn.Parameter(torch.empty(positions, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        _initialise(self, layers)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores [batch, positions, classes] of tokens, int64 [batch, positions]."""
        length, most = tokens.shape[1], len(self.positions)
        if length > most:
            raise ValueError(f"tokens must have at most {most} positions, got {length}. Build it with more.")
        features = self.dropout(self.embedding(tokens) + self.positions[:length])
        for block in self.blocks:
            features = block(features)
        return F.linear(self.norm(features), self.embedding.weight)


class _Block(nn.Module):
    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron_in = nn.Linear(width, 4 * width)
        self.perceptron_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, features: Tensor) -> Tensor:
        features = features + self.dropout(self._attention(self.attention_norm(features)))
        inner = F.gelu(self.perceptron_in(self.perceptron_norm(features)), approximate="tanh")
        out: Tensor = features + self.dropout(self.perceptron_out(inner))
        return out

    def _attention(self, features: Tensor) -> Tensor:
        # [batch, positions, 3 * width] -> three of [batch, heads, positions, width of a head]
        parts = self.attention_in(features).unflatten(2, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        out: Tensor = self.attention_out(mixed.transpose(1, 2).flatten(2))
        return out


def _initialise(model: TransformerLanguageModel, layers: int) -> None:
    deviation = 0.5 * model.positions.shape[1] ** -0.5
    nn.init.normal_(model.positions, std=deviation)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
        elif isinstance(module, nn.Linear):
            # Two additions a block.
            factor = (2 * layers) ** -0.5 if name.endswith("_out") else 1.0
            nn.init.normal_(module.weight, std=deviation * factor)
            nn.init.zeros_(module.bias)

"""A recurrent language model."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


@final
class LSTMLanguageModel(nn.Module):
    """Embedding, LSTM, and scores of the token that follows at every position.

    The state is zero at the beginning of every window: windows are samples like any others, in any order, and
    nothing is carried from one to the next.

    Args:
        classes: Number of different tokens.
        width: Units of the embedding and of each LSTM layer.
        layers: LSTM layers, >= 1.
        dropout: Share of units dropped after the embedding and after each layer, while training.
        tied: Whether the output layer scores with the weights of the embedding (Press and Wolf 2017).

    Example:
        >>> LSTMLanguageModel(50, width=8)(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5, 50])
    """

    def __init__(
        self, classes: int, *, width: int, layers: int = 2, dropout: float = 0.0, tied: bool = True
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        # So that tied scores of states up to 1 are of order 1.
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        # Between layers only; torch warns of a dropout without a place.
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, width, layers, dropout=between, batch_first=True)
        self.head = None if tied else nn.Linear(width, classes)
        self.bias = nn.Parameter(torch.zeros(classes)) if tied else None

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores [batch, positions, classes] of tokens, int64 [batch, positions]."""
        states, _ = self.lstm(self.dropout(self.embedding(tokens)))
        states = self.dropout(states)
        if self.head is None:
            # One name for the tied weights, so that they are sent to peers once.
            return F.linear(states, self.embedding.weight, self.bias)
        scores: Tensor = self.head(states)
        return scores

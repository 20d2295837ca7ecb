"""An encoder and a decoder of attention, for sequences in two languages with one vocabulary."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class Transformer(nn.Module):
    """The transformer of Vaswani et al. (2017), layer normalisation before each part instead of after it.

    Normalising first, and once more at the end of encoder and decoder, trains without a long warm-up (Xiong
    et al. 2020). One matrix embeds sources and targets and scores the output (section 3.4); positions are
    sines (section 3.5), so no sentence is too long; dropout is on embeddings and on what each part adds
    (section 5.4). With a joint vocabulary of 32,000 there are 60,524,544 parameters at width 512, 6 layers
    and feed-forward width 2048 ("base") and 209,129,472 at 1024, 6 and 4096 ("big").

    Args:
        classes: Size of the vocabulary.
        width: Of embeddings and layers; a multiple of ``heads``, and even.
        layers: Of the encoder, and as many of the decoder.
        heads: Of each attention.
        feed_forward: Width inside a feed-forward part.
        dropout: Share of features dropped in training, in [0, 1].
        pad: The token that fills up sources. Decoder inputs may be filled up at their ends with any: a
            position sees none after it.

    Raises:
        ValueError: If the heads do not share the width evenly, or it is odd.
    """

    def __init__(
        self,
        classes: int,
        *,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        pad: int,
    ) -> None:
        super().__init__()
        if width < 1 or width % heads or width % 2:
            raise ValueError(
                f"width must be even and a multiple of heads ({heads}), got {width}. Change one of the two."
            )
        self.pad = pad
        self.embedding = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            _EncoderLayer(width, heads=heads, feed_forward=feed_forward, dropout=dropout)
            for _ in range(layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            _DecoderLayer(width, heads=heads, feed_forward=feed_forward, dropout=dropout)
            for _ in range(layers)
        )
        self.decoder_norm = nn.LayerNorm(width)

    @override
    def forward(self, source: Tensor, decoder_input: Tensor) -> Tensor:
        """Return scores of the token after each position.

        Args:
            source: int64 [batch, S], padded at the end; one token of each row at least is not padding.
            decoder_input: int64 [batch, T].

        Returns:
            [batch, T, classes].
        """
        return self._scores(self._decode(self.encode(source), source, decoder_input))

    def encode(self, source: Tensor) -> Tensor:
        """Return what the decoder attends to, [batch, S, width], for a source int64 [batch, S]."""
        features, mask = self._embed(source), self._mask(source)
        for layer in self.encoder:
            features = layer(features, mask)
        normed: Tensor = self.encoder_norm(features)
        return normed

    def next_scores(self, memory: Tensor, source: Tensor, prefix: Tensor) -> Tensor:
        """Return scores of the token that follows a beginning, [batch, classes].

        Args:
            memory: What `encode` returned for ``source``.
            source: int64 [batch, S].
            prefix: What the decoder has been fed so far, int64 [batch, T], T >= 1.
        """
        return self._scores(self._decode(memory, source, prefix)[:, -1])

    def _decode(self, memory: Tensor, source: Tensor, decoder_input: Tensor) -> Tensor:
        features, mask = self._embed(decoder_input), self._mask(source)
        for layer in self.decoder:
            features = layer(features, memory, mask)
        normed: Tensor = self.decoder_norm(features)
        return normed

    def _scores(self, features: Tensor) -> Tensor:
        return F.linear(features, self.embedding.weight)

    def _mask(self, source: Tensor) -> Tensor:
        # [batch, heads, queries, keys]
        return (source != self.pad)[:, None, None, :]

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens)
        width = embedded.shape[-1]
        positions = sines(tokens.shape[1], width, device=tokens.device).to(embedded.dtype)
        features: Tensor = self.dropout(embedded * math.sqrt(width) + positions)
        return features


def sines(length: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Return what tells positions apart, float32 [length, width]; sines first, then cosines.

    Args:
        length: Number of positions.
        width: Even.
        device: Where to put it.
    """
    # Periods from 2 pi to 20,000 pi, as in the paper's section 3.5, where sines and cosines take turns.
    exponents = torch.arange(0, width, 2, device=device) / width
    angles = torch.arange(length, device=device)[:, None] * 10000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, *, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(width, heads=heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = _FeedForward(width, feed_forward)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        normed = self.attention_norm(features)
        features = features + self.dropout(self.attention(normed, normed, mask))
        added: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(features)))
        return features + added


class _DecoderLayer(nn.Module):
    def __init__(self, width: int, *, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.own_norm = nn.LayerNorm(width)
        self.own_attention = _Attention(width, heads=heads)
        self.source_norm = nn.LayerNorm(width)
        self.source_attention = _Attention(width, heads=heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = _FeedForward(width, feed_forward)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, features: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        normed = self.own_norm(features)
        features = features + self.dropout(self.own_attention(normed, normed))
        features = features + self.dropout(self.source_attention(self.source_norm(features), memory, mask))
        added: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(features)))
        return features + added


class _Attention(nn.Module):
    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = _linear(width, width)
        self.key = _linear(width, width)
        self.value = _linear(width, width)
        self.output = _linear(width, width)

    @override
    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from [batch, T, width] to [batch, S, width]; without a mask, to what is not later."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(asking)),
            self._split(self.key(asked)),
            self._split(self.value(asked)),
            attn_mask=mask,
            is_causal=mask is None,
        )
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result

    def _split(self, features: Tensor) -> Tensor:
        # [batch, positions, width] -> [batch, heads, positions, width / heads]
        batch, positions, _ = features.shape
        return features.view(batch, positions, self.heads, -1).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner = _linear(width, inner)
        self.output = _linear(inner, width)

    @override
    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.output(F.relu(self.inner(features)))
        return result


def _linear(before: int, after: int) -> nn.Linear:
    linear = nn.Linear(before, after)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

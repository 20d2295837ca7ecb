"""Find the translation that a model thinks the most likely, or nearly so."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from codistill.arguments import check_int
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, PAD


class Translator(Protocol):
    """A model that can be asked for one token after another."""

    def encode(self, source: Tensor) -> Tensor:
        """Return what is the same for every token of a translation, [batch, ...].

        Args:
            source: int64 [batch, S].
        """
        ...

    def next_scores(self, memory: Tensor, source: Tensor, prefix: Tensor) -> Tensor:
        """Return scores of the token that follows a beginning, [batch, classes].

        Args:
            memory: What `encode` returned for ``source``.
            source: int64 [batch, S].
            prefix: `BOS` and the tokens so far, int64 [batch, T].
        """
        ...


@torch.no_grad()
def beam_search(
    model: Translator, source: Tensor, *, longest: int, beam: int = 4, alpha: float = 0.6
) -> list[list[int]]:
    """Return the best translation found of each sentence.

    Translations are compared by their log-probability divided by ``((5 + length) / 6) ** alpha`` (Wu et al.
    2016, section 7), the length with `EOS`. All end with `EOS`; `PAD` and `BOS` are never chosen. A sentence
    is done when no translation that goes on can still become better than the best, or when ``beam`` have
    ended and none that goes on is better as it stands.

    Args:
        model: In eval mode.
        source: int64 [batch, S], on the model's device.
        longest: Most tokens of a translation, `EOS` included, >= 1.
        beam: How many beginnings are followed up at a time, >= 1; 1 is greedy.
        alpha: How much longer translations are favoured, >= 0; 0 compares plain probabilities.

    Returns:
        The tokens of each translation, without `BOS` and `EOS`.

    Raises:
        TypeError: If ``longest`` or ``beam`` is no int.
        ValueError: If an argument is out of its range.
    """
    check_int("longest", longest, minimum=1, hint="A translation has at least its EOS.")
    check_int("beam", beam, minimum=1, hint="Pass 1 for a greedy search.")
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}. Pass 0 to compare plain probabilities.")
    device = source.device
    best = torch.full((len(source),), -torch.inf, device=device)
    answers = torch.full((len(source), longest), EOS, device=device)
    # Only of sentences that are not done, their numbers in `open_rows`.
    open_rows = torch.arange(len(source), device=device)
    memory = model.encode(source)
    prefixes = torch.full((len(source), beam, 1), BOS, device=device)
    # A sentence begins with one beginning; the others are impossible.
    likelihood = torch.full((len(source), beam), -torch.inf, device=device)
    likelihood[:, 0] = 0.0
    ended = torch.zeros(len(source), dtype=torch.int64, device=device)
    for length in range(1, longest + 1):
        scores = model.next_scores(
            memory.repeat_interleave(beam, dim=0),
            source.repeat_interleave(beam, dim=0),
            prefixes.flatten(0, 1),
        )
        following = F.log_softmax(scores.float(), dim=-1).view(len(open_rows), beam, -1)
        following[..., [PAD, BOS]] = -torch.inf
        if length == longest:
            following[..., EOS + 1 :] = -torch.inf
        classes = following.shape[-1]
        # Twice as many as are followed up: no more than half of them end, one a beginning.
        candidates, places = (likelihood[..., None] + following).flatten(1).topk(2 * beam)
        tokens, origins = places % classes, places // classes
        # Of those that end, only the ones among the best `beam` count, so that a beam of 1 is greedy.
        has_ended = (tokens == EOS) & (candidates > -torch.inf)
        has_ended[:, beam:] = False
        ended += has_ended.sum(dim=1)
        penalty = ((5 + length) / 6) ** alpha
        final, rank = (candidates / penalty).where(has_ended, -torch.inf).max(dim=1)
        is_better = final > best[open_rows]
        best[open_rows[is_better]] = final[is_better]
        origin = origins.gather(1, rank[:, None]).squeeze(1)[is_better]
        answers[open_rows[is_better], : length - 1] = prefixes[is_better, origin, 1:]
        answers[open_rows[is_better], length - 1 :] = EOS
        # Stable, so the best come first.
        order = (tokens == EOS).int().argsort(dim=1, stable=True)[:, :beam]
        likelihood, tokens, origins = (part.gather(1, order) for part in (candidates, tokens, origins))
        prefixes = prefixes.gather(1, origins[..., None].expand(-1, -1, length))
        prefixes = torch.cat([prefixes, tokens[..., None]], dim=2)
        # Log-probabilities only fall, and the divisor is largest at the greatest length.
        bound = likelihood[:, 0] / ((5 + longest) / 6) ** alpha
        so_far = likelihood[:, 0] / penalty
        goes_on = (bound > best[open_rows]) & ((ended < beam) | (so_far > best[open_rows]))
        if not goes_on.all():
            open_rows, memory, source, prefixes, likelihood, ended = (
                part[goes_on] for part in (open_rows, memory, source, prefixes, likelihood, ended)
            )
            if not len(open_rows):
                break
    return [row[: row.index(EOS)] for row in answers.tolist()]

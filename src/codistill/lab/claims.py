"""What an experiment was set up to show: comparisons declared before it runs, and how they came out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codistill.lab import documents
from codistill.lab.intervals import interval

Outcome = Literal["ahead", "behind", "no difference at 95%", "too few seeds", "not codistilled"]
Expectation = Literal["ahead", "parity", "behind"]
Holding = Literal["holds", "does not hold here", "too noisy to tell", "no evidence: an arm diverged"]

CLAIMS = "claims.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that two arms are compared on."""

    label: str
    """As it is called in a sentence."""
    unit: str
    """What the differences are printed in; empty for a bare number."""
    scale: float
    """Factor from the stored number to that unit."""
    decimals: int
    """Digits after the point in that unit."""
    higher_is_better: bool
    """Which direction counts as ahead."""


METRICS: Mapping[str, Metric] = {
    "test_accuracy": Metric(
        label="test accuracy", unit="points", scale=100.0, decimals=2, higher_is_better=True
    ),
    "test_nll": Metric(label="test NLL", unit="nats", scale=1.0, decimals=3, higher_is_better=False),
    "churn": Metric(label="churn", unit="points", scale=100.0, decimals=2, higher_is_better=False),
    "difference": Metric(
        label="difference of retrainings", unit="points", scale=100.0, decimals=3, higher_is_better=False
    ),
    "test_bleu": Metric(label="test BLEU", unit="points", scale=1.0, decimals=1, higher_is_better=True),
    "test_auc": Metric(label="test AUC", unit="", scale=1.0, decimals=4, higher_is_better=True),
}
"""What a claim can be about, by name. Further scores that are not listed are claimed as ``test_NAME`` too."""

PAIRWISE = ("churn", "difference")
"""Metrics that are means over pairs of seeds, and are compared through `pair_pseudo_values`."""

_FURTHER = "test_"


def metric(name: str) -> Metric:
    """Return what a claim is about: one of `METRICS`, or ``test_NAME`` for a further score of a task.

    Raises:
        ValueError: If it is neither.
    """
    if name in METRICS:
        return METRICS[name]
    further = name.removeprefix(_FURTHER)
    if further == name or not further:
        raise ValueError(
            f"metric must be one of {', '.join(METRICS)}, or test_NAME for a further score, got {name!r}."
        )
    return Metric(label=f"test {further}", unit="", scale=1.0, decimals=3, higher_is_better=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A comparison of two arms that is declared beforehand.

    Raises:
        ValueError: If ``metric`` is none, or ``margin`` is out of its range, or does not go with ``expects``.
    """

    arm: str
    """The arm that may be ahead or behind."""
    against: str
    """The arm it is held against."""
    metric: str
    """A name that `metric` knows."""
    says: str
    """The question it answers, in a few words."""
    name: str = ""
    """What it is called where it comes from, such as "S3"; empty for none."""
    expects: Expectation | None = None
    """How it is expected to come out; None for no direction, and then nothing is said to hold."""
    margin: float | None = None
    """In the unit of the metric, such as 0.5 points: for "parity" the largest difference that counts as none,
    for "ahead" and "behind" the least that matters."""

    def __post_init__(self) -> None:
        metric(self.metric)
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"margin must be a finite number >= 0, got {self.margin}.")
        if self.expects == "parity" and self.margin is None:
            raise ValueError("margin must be given where parity is expected, got none.")
        if self.expects is None and self.margin is not None:
            raise ValueError(f"margin must be left out where nothing is expected, got {self.margin}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a claim came out."""

    arm: str
    """As in the claim."""
    against: str
    """As in the claim."""
    metric: str
    """As in the claim."""
    says: str
    """As in the claim."""
    outcome: Outcome
    """Computed: "ahead" and "behind" only if the interval lies on one side of 0; "not codistilled" in place
    of any claim if one of the arms hardly had a teacher."""
    difference: float
    """Mean over seeds of ``arm`` minus ``against``, in the stored unit; NaN if not codistilled."""
    low: float | None
    """Lower end of the interval; None with too few seeds, or if not codistilled."""
    high: float | None
    """Upper end of the interval; None where ``low`` is."""
    seeds: int
    """Paired seeds it rests on."""
    not_codistilled: tuple[str, ...] = ()
    """Which of the two arms were meant to codistil, and did not."""
    # What follows is absent in documents that were written before it was recorded.
    name: str = ""
    """As in the claim."""
    expects: Expectation | None = None
    """As in the claim."""
    margin: float | None = None
    """As in the claim."""
    holds: Holding | None = None
    """Whether what was expected came out, see `judge`; None if nothing was expected, or not codistilled. "no
    evidence" is said by hand, where what the rule makes of the numbers is none either way."""

    def sentence(self) -> str:
        """Return the verdict as one line of text.

        Example:
            >>> claim = Claim(arm="two", against="one", metric="test_accuracy", says="parity")
            >>> print(judge(claim, [0.02, 0.03, 0.025]).sentence())
            two: ahead of one on test accuracy, +2.50 points (95% interval +1.26 to +3.74, 3 seeds)
        """
        who = f"{self.name}, {self.arm}" if self.name else self.arm
        if self.outcome == "not codistilled":
            verb = "was" if len(self.not_codistilled) == 1 else "were"
            return (
                f"{who}: no verdict against {self.against} on {self.quantity()}: "
                f"{' and '.join(self.not_codistilled)} {verb} not codistilled"
            )
        joined = {"ahead": "of", "behind": ""}.get(self.outcome, "from")
        if self.outcome == "too few seeds":
            joined = "to tell from"
        words = " ".join(filter(None, (self.outcome, joined, self.against)))
        seeds = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        reach = "" if self.low is None or self.high is None else f"95% interval {self.interval()}, "
        expected = "" if self.holds is None else f"; expected {self.expectation()}: {self.holds}"
        return f"{who}: {words} on {self.quantity()}, {self.change()} ({reach}{seeds}){expected}"

    def expectation(self) -> str:
        """Return what was expected in words, or ``"-"`` for nothing."""
        if self.expects is None:
            return "-"
        if self.margin is None:
            return self.expects
        reach = "within" if self.expects == "parity" else "by at least"
        return f"{self.expects} {reach} {self.margin:g} {metric(self.metric).unit}".rstrip()

    def interval(self) -> str:
        """Return the interval as ``"+0.1 to +0.4"``, or ``"-"`` where there is none."""
        if self.low is None or self.high is None:
            return "-"
        return f"{self._signed(self.low)} to {self._signed(self.high)}"

    def quantity(self) -> str:
        """Return what was compared, and which direction is good where that may be doubted."""
        own = metric(self.metric)
        return own.label if own.higher_is_better else f"{own.label} (lower is better)"

    def change(self) -> str:
        """Return the mean difference with its unit, or ``"-"`` where there is none."""
        if math.isnan(self.difference):
            return "-"
        return f"{self._signed(self.difference)} {metric(self.metric).unit}".rstrip()

    def _signed(self, value: float) -> str:
        own = metric(self.metric)
        return f"{value * own.scale:+.{own.decimals}f}"


def judge(claim: Claim, differences: Sequence[float], *, not_codistilled: Sequence[str] = ()) -> Verdict:
    """Return the verdict on a claim.

    What holds is read off the two-sided 95% t interval of the paired difference, where better is up:

    - "ahead" holds if the interval lies above 0. It does not hold here if the interval lies below the margin,
      so that no effect that matters is compatible with the runs; below 0 if there is no margin.
    - "behind" is the same turned round.
    - "parity" holds if the interval lies within the margin on both sides of 0, and does not if it lies
      wholly outside.
    - Anything else, too few seeds included, is too noisy to tell.

    An effect that is sure and yet smaller than the margin is "ahead", and holds.

    Args:
        claim: What is compared.
        differences: ``arm`` minus ``against``, one value a seed; for `PAIRWISE` metrics, the pseudo-values of
            `pair_pseudo_values`.
        not_codistilled: Which of the two arms were meant to codistil, and hardly had a teacher.

    Returns:
        "not codistilled" if there is such an arm; else "ahead" or "behind" if the two-sided 95% t interval
        excludes 0, "no difference at 95%" if it holds 0, and "too few seeds" if there are not two finite
        differences.
    """
    low, high = (None, None) if not_codistilled else interval(differences)
    outcome: Outcome = "no difference at 95%"
    if not_codistilled:
        outcome = "not codistilled"
    elif low is None or high is None:
        outcome = "too few seeds"
    elif low > 0 or high < 0:
        outcome = "ahead" if (low > 0) == metric(claim.metric).higher_is_better else "behind"
    return Verdict(
        arm=claim.arm,
        against=claim.against,
        metric=claim.metric,
        says=claim.says,
        outcome=outcome,
        difference=sum(differences) / len(differences) if differences and not not_codistilled else math.nan,
        low=low,
        high=high,
        seeds=len(differences),
        not_codistilled=tuple(not_codistilled),
        name=claim.name,
        expects=claim.expects,
        margin=claim.margin,
        holds=None if not_codistilled else _holds(claim, low, high),
    )


def _holds(claim: Claim, low: float | None, high: float | None) -> Holding | None:
    if claim.expects is None:
        return None
    if low is None or high is None:
        return "too noisy to tell"
    own, margin = metric(claim.metric), claim.margin or 0.0
    low, high = low * own.scale, high * own.scale
    # Turned so that up is where the claim wants the difference to be.
    if own.higher_is_better == (claim.expects == "behind"):
        low, high = -high, -low
    if claim.expects == "parity":
        holds, fails = -margin <= low and high <= margin, low > margin or high < -margin
    else:
        holds, fails = low > 0, high < margin
    return "holds" if holds else "does not hold here" if fails else "too noisy to tell"


def write_claims(folder: Path, claims: Sequence[Claim]) -> None:
    """Write what is claimed of a results folder into it, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    documents.write_json(folder / CLAIMS, [documents.to_document(claim) for claim in claims])


def read_claims(folder: Path) -> tuple[Claim, ...] | None:
    """Return what `write_claims` left in a results folder; None if nothing was declared.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no list of claims; the bad claim and field are named.
    """
    path = folder / CLAIMS
    if not path.exists():
        return None
    found = documents.read_json(path)
    if not isinstance(found, list):
        raise ValueError(f"{path} must hold a list of claims, got {type(found).__name__}.")
    return tuple(_claim(claim, where=f"{path}: [{index}]") for index, claim in enumerate(found))


def _claim(document: Mapping[str, Any], *, where: str) -> Claim:
    try:
        return documents.from_document(Claim, document, where=where)
    except ValueError as e:
        # What a claim itself objects to does not say where it is.
        message = str(e)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from e

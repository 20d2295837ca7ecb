"""What an experiment was set up to show: comparisons declared before it runs, and how they came out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codistill.extras import require

Outcome = Literal["ahead", "behind", "no difference at 95%", "too few seeds", "not codistilled"]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that two arms are compared on."""

    label: str
    """As it is called in a sentence."""
    unit: str
    """What the differences are printed in."""
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
}
"""Everything a claim can be about, by the name of the field in a row of the comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A comparison of two arms that is declared beforehand.

    Raises:
        ValueError: If ``metric`` is not one of `METRICS`.
    """

    arm: str
    """The arm that may be ahead or behind."""
    against: str
    """The arm it is held against."""
    metric: str
    """A name from `METRICS`."""
    says: str
    """The question it answers, in a few words."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}.")


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

    def sentence(self) -> str:
        """Return the verdict as one line of text.

        Example:
            >>> claim = Claim(arm="two", against="one", metric="test_accuracy", says="parity")
            >>> print(judge(claim, [0.02, 0.03, 0.025]).sentence())
            two: ahead of one on test accuracy, +2.50 points (95% interval +1.26 to +3.74, 3 seeds)
        """
        if self.outcome == "not codistilled":
            verb = "was" if len(self.not_codistilled) == 1 else "were"
            return (
                f"{self.arm}: no verdict against {self.against} on {self.quantity()}: "
                f"{' and '.join(self.not_codistilled)} {verb} not codistilled"
            )
        joined = {"ahead": "of", "behind": ""}.get(self.outcome, "from")
        if self.outcome == "too few seeds":
            joined = "to tell from"
        words = " ".join(filter(None, (self.outcome, joined, self.against)))
        seeds = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        reach = "" if self.low is None or self.high is None else f"95% interval {self.interval()}, "
        return f"{self.arm}: {words} on {self.quantity()}, {self.change()} ({reach}{seeds})"

    def interval(self) -> str:
        """Return the interval as ``"+0.1 to +0.4"``, or ``"-"`` where there is none."""
        if self.low is None or self.high is None:
            return "-"
        return f"{self._signed(self.low)} to {self._signed(self.high)}"

    def quantity(self) -> str:
        """Return what was compared, and which direction is good where that may be doubted."""
        metric = METRICS[self.metric]
        return metric.label if metric.higher_is_better else f"{metric.label} (lower is better)"

    def change(self) -> str:
        """Return the mean difference with its unit, or ``"-"`` where there is none."""
        if math.isnan(self.difference):
            return "-"
        return f"{self._signed(self.difference)} {METRICS[self.metric].unit}"

    def _signed(self, value: float) -> str:
        metric = METRICS[self.metric]
        return f"{value * metric.scale:+.{metric.decimals}f}"


def judge(claim: Claim, differences: Sequence[float], *, not_codistilled: Sequence[str] = ()) -> Verdict:
    """Return the verdict on a claim.

    Args:
        claim: What is compared.
        differences: ``arm`` minus ``against``, one value a seed; for churn, the pseudo-values of
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
        outcome = "ahead" if (low > 0) == METRICS[claim.metric].higher_is_better else "behind"
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
    )


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the two-sided 95% t interval of the mean, or two None if there is none.

    Args:
        values: One independent value a seed.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 4), round(high, 4)
        (-0.4841, 4.4841)
    """
    count = len(values)
    if count < 2 or not all(math.isfinite(value) for value in values):
        return None, None
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    stats: Any = require("scipy.stats", "lab")
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * math.sqrt(variance / count)
    return mean - reach, mean + reach


def pair_pseudo_values(pairs: Sequence[Sequence[float]]) -> list[float]:
    """Return the jackknife pseudo-values of a mean over pairs of seeds, one a seed.

    Churn is a mean over pairs, and pairs that share a seed are not independent: a t interval over
    pairs, or over each seed's mean with the others, would be too narrow. The pseudo-values
    ``n U - (n - 1) U without seed i`` may be treated as independent (Arvesen 1969, "Jackknifing
    U-statistics"); their mean is the mean over pairs itself.

    Args:
        pairs: Symmetric [n, n], value of every pair of seeds; the diagonal is ignored. The difference of
            two arms' matrices over the same seeds makes the comparison a paired one.

    Returns:
        n values; empty if n < 3, as leaving one out must leave a pair.

    Example:
        >>> pair_pseudo_values([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
        [0.0, 2.0, 4.0]
    """
    count = len(pairs)
    if count < 3:
        return []
    with_seed = [sum(row[j] for j in range(count) if j != i) for i, row in enumerate(pairs)]
    total = sum(with_seed) / 2
    mean = total / math.comb(count, 2)
    return [count * mean - (count - 1) * (total - own) / math.comb(count - 1, 2) for own in with_seed]


DEMO_CLAIMS: tuple[Claim, ...] = (
    Claim(
        arm="codistillation_2",
        against="all_reduce",
        metric="test_accuracy",
        says="two peers without all-reduce, the same samples",
    ),
    Claim(
        arm="codistillation_4",
        against="all_reduce",
        metric="test_accuracy",
        says="four peers without all-reduce, the same samples",
    ),
    Claim(
        arm="all_reduce_smoothing",
        against="all_reduce",
        metric="test_accuracy",
        says="what the cheapest regulariser does",
    ),
    Claim(
        arm="codistillation_2",
        against="all_reduce_smoothing",
        metric="test_accuracy",
        says="peers as a regulariser, against the cheapest one",
    ),
    Claim(
        arm="codistillation_halves",
        against="half_alone",
        metric="test_accuracy",
        says="knowledge of unseen data through predictions",
    ),
    Claim(
        arm="alone_2_ensemble",
        against="codistillation_2",
        metric="test_accuracy",
        says="the price to beat, at twice the cost of a prediction",
    ),
    Claim(
        arm="codistillation_2_free",
        against="codistillation_2",
        metric="test_accuracy",
        says="running free against lockstep, at the settings of lockstep; no direction expected",
    ),
    Claim(
        arm="codistillation_2",
        against="all_reduce",
        metric="churn",
        says="do retrained models agree more",
    ),
    Claim(
        arm="codistillation_4",
        against="all_reduce",
        metric="churn",
        says="do retrained models agree more with four peers",
    ),
)
"""What the demo was set up to show; the labels are those of `codistill.lab.recipes.demo`."""

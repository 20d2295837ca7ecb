"""From a results folder to a table of arms and the verdicts on what was claimed; numbers only."""

from collections.abc import Sequence, Set

from codistill.errors import DataMissingError
from codistill.lab import claims, methods
from codistill.lab.claims import Claim, Verdict
from codistill.lab.comparison import Comparison, Row
from codistill.lab.declared import declared_claims, judged_by
from codistill.lab.finished import Finished, find_finished, last_rows
from codistill.lab.folder import RunFolder
from codistill.lab.rows import Context, ensemble_row, make_row
from codistill.lab.scored import Scored, pseudo_values, score_ensemble, score_first_peer

FIRST_PEER = "a"
"""The model that an arm is judged by; it is the one a user would ship."""


def compare(folder: RunFolder, *, declared: Sequence[Claim] | None = None) -> Comparison:
    """Return the table and the verdicts of a results folder.

    A seed counts for an arm when all its peers have finished. Verdicts pair the seeds that both arms
    have; those on churn, or on the difference of retrainings, use the pairs of seeds that both arms have,
    through `codistill.lab.intervals.pair_pseudo_values`.

    An arm is judged by its first model, but by the ensemble of its models if its method says so. Models that
    are trained alone have their ensemble in a row of its own, ``<arm>_ensemble``; that of peers which taught
    each other is shown beside them, and nothing is claimed of it.

    Args:
        folder: The results; not changed.
        declared: The claims to judge; those of `codistill.lab.declared.declared_claims` if not given.

    Raises:
        DataMissingError: If no arm has a finished seed.
        ValueError: If a result or claim cannot be read; the file and field are named.
    """
    declared = declared_claims(folder) if declared is None else declared
    found = [one for one in (find_finished(folder, arm) for arm in folder.arms) if one is not None]
    if not found:
        raise DataMissingError(
            f"{folder.path} must hold at least one arm that has finished, and it holds none. "
            "Finish the run with --resume."
        )
    metric = judged_by(folder.arms)
    plain = _plain(found)
    plain_passes = None if plain is None else plain.cost.passes
    rows: list[Row] = []
    scored: dict[str, Scored] = {}
    for finished in found:
        arm = finished.arm
        method = methods.method(arm.method)
        ensemble = score_ensemble(folder, finished)
        earlier = method.earlier(arm) if method.counts_earlier else None
        context = Context(
            judge=metric,
            ensemble=ensemble,
            is_ensemble=method.is_ensemble,
            plain_passes=plain_passes,
            earlier_arm=None if earlier is None else earlier.label,
            earlier=None if earlier is None else find_finished(folder, earlier),
            last_rows=last_rows(folder, finished),
        )
        if method.is_ensemble:
            scored[arm.label] = ensemble or Scored()
        else:
            scored[arm.label] = score_first_peer(folder, finished)
        rows.append(make_row(finished, scored[arm.label], context))
        if arm.method == "alone" and ensemble is not None:
            label = f"{arm.label}_ensemble"
            scored[label] = ensemble
            rows.append(ensemble_row(label, rows[-1], ensemble))
    not_codistilled = {row.arm for row in rows if row.is_codistilled is False}
    verdicts = tuple(
        _judge(claim, scored[claim.arm], scored[claim.against], not_codistilled)
        for claim in declared
        if claim.arm in scored and claim.against in scored
    )
    return Comparison(rows=tuple(rows), verdicts=verdicts, metric=metric)


def _plain(found: Sequence[Finished]) -> Finished | None:
    """Return what compute is relative to: the first all_reduce arm, else the first one without teachers."""
    reduced = [one for one in found if one.arm.method == "all_reduce"]
    untaught = [one for one in found if not one.has_teachers]
    return next(iter([*reduced, *untaught]), None)


def _judge(claim: Claim, arm: Scored, against: Scored, not_codistilled: Set[str]) -> Verdict:
    missing = [label for label in (claim.arm, claim.against) if label in not_codistilled]
    return claims.judge(claim, _differences(claim, arm, against), not_codistilled=missing)


def _differences(claim: Claim, arm: Scored, against: Scored) -> list[float]:
    if claim.metric in claims.PAIRWISE:
        ours, theirs = arm.of_pairs(claim.metric), against.of_pairs(claim.metric)
        return pseudo_values({pair: ours[pair] - theirs[pair] for pair in ours if pair in theirs})
    values, others = arm.of(claim.metric), against.of(claim.metric)
    return [values[seed] - others[seed] for seed in values if seed in others]

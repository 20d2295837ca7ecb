"""What happens to training while the link is cut, and after."""

import itertools
import time
from typing import Any, Final

from network.hosts import TwoHosts
from network.measurement import FailedError, Peer, ask, peers
from network.stores import Start
from network.training import Size
from network.ways import Way

_BACK_S: Final = 60.0
# By these many steps both have heard at which one to stop.
_MARGIN_STEPS: Final = 20


def run(
    start: Start, hosts: TwoHosts, size: Size, way: Way, *, how: str, cut_s: float, calm_s: float
) -> dict[str, Any]:
    """Return how both peers trained before, while the link was cut, and after.

    Args:
        start: Starts a process.
        hosts: Where.
        size: Of model and batch.
        way: How they train.
        how: As of `TwoHosts.cut`.
        cut_s: For how long it is cut.
        calm_s: For how long they train before; afterwards they are given a minute to find back.
    """
    result: dict[str, Any] = {"how": how, "cut_s": cut_s, "peers": {}}
    with peers(start, hosts, size, way) as pair:
        ask(pair, "train", 3)
        for peer in pair:
            peer.tell("train until told")
        begin_s = time.monotonic()
        time.sleep(calm_s)
        with hosts.cut(how):
            cut_at_s = time.monotonic()
            time.sleep(cut_s)
        restored_s = time.monotonic()
        time.sleep(_BACK_S)
        end_s = time.monotonic()
        for peer, answer in zip(pair, _stop(pair), strict=True):
            result["peers"][peer.name] = _describe(answer, begin_s, cut_at_s, restored_s, end_s)
    return result


def _stop(pair: list[Peer]) -> list[dict[str, Any]]:
    """Let both come to an end at the same step; return their answers, or their errors."""
    places = [_try_to_ask(peer, "where") for peer in pair]
    last = max(place.get("count", 0) for place in places) + _MARGIN_STEPS
    for peer, place in zip(pair, places, strict=True):
        if "error" not in place:
            peer.tell("stop", last)
    return [
        place if "error" in place else _try_to_ask(peer) for peer, place in zip(pair, places, strict=True)
    ]


def _try_to_ask(peer: Peer, *command: Any) -> dict[str, Any]:
    """Return an answer, also where that is an error."""
    try:
        if command:
            peer.tell(*command)
        return peer.answer()
    except FailedError as error:
        return {"error": str(error).strip().splitlines()[-1][:400]}


def _describe(
    answer: dict[str, Any], begin_s: float, cut_at_s: float, restored_s: float, end_s: float
) -> dict[str, Any]:
    """Return what became of a peer."""
    if "error" in answer:
        return answer
    steps = answer["steps"]
    # With all that is between two steps; the first has no other before it.
    ends_s = [step["end_s"] for step in steps]
    gaps_s = [0.0, *(end_s - last_s for last_s, end_s in itertools.pairwise(ends_s))]
    for step, gap_s in zip(steps, gaps_s, strict=True):
        step["gap_s"] = gap_s
    spans = {
        "before": (begin_s, cut_at_s),
        "during": (cut_at_s, restored_s),
        "after": (restored_s, end_s),
    }
    result: dict[str, Any] = {"warnings": answer["warnings"]}
    for name, (from_s, to_s) in spans.items():
        # A step counts where it ends; one that spans all of the cut so counts after it.
        own = [step for step in steps if from_s <= step["end_s"] < to_s]
        result[name] = {
            "steps_per_s": len(own) / (to_s - from_s),
            "longest_step_s": max((step["gap_s"] for step in own), default=None),
            "longest_stall_s": max((step["stall_s"] for step in own), default=None),
            "published": sum(step["published"] for step in own),
            "skipped": sum(step["skipped"] for step in own),
            "fetched": sum(step["fetched"] for step in own),
            "oldest_age_steps": max((step["age_steps"] for step in own if step["age_steps"]), default=None),
        }
    after = [step for step in steps if step["end_s"] >= restored_s]
    result["back_to_training_s"] = after[0]["end_s"] - restored_s if after else None
    taken = [step["end_s"] for step in after if step["fetched"]]
    result["back_to_fetching_s"] = taken[0] - restored_s if taken else None
    published = [step["end_s"] for step in after if step["published"]]
    result["back_to_publishing_s"] = published[0] - restored_s if published else None
    return result

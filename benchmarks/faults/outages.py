"""Taking the store away from three peers for half a minute or more."""

import random
import statistics
import time
from pathlib import Path
from typing import Any, Final

from faults.damage import take_away
from faults.fleet import INTERVAL_STEPS, fleet

_BEFORE_S: Final = 20.0
_AFTER_S: Final = 20.0
_SHORTEST_S, _LONGEST_S = 30.0, 60.0


def run(folder: Path, *, count: int, seed: int) -> dict[str, Any]:
    """Take the store away again and again; return what the peers made of it.

    **Blocks**: 70 to 100 s an outage.

    Args:
        folder: A new one.
        count: How often.
        seed: Of how long.
    """
    rng = random.Random(seed)
    outages = []
    with fleet(folder) as peers:
        for _ in range(count):
            time.sleep(_BEFORE_S)
            begin_s = time.monotonic()
            take_away(peers, for_s=rng.uniform(_SHORTEST_S, _LONGEST_S))
            end_s = time.monotonic()
            time.sleep(_AFTER_S)
            journals = {peer: peers.journal(peers.current(peer)) for peer in peers.alive}
            outages.append(_judge(journals, begin_s, end_s))
        peers.stop()
        problems = [
            f"{life} ended with exit code {code}" for life, code in peers.exit_codes.items() if code != 0
        ] + [
            f"{life} printed {peers.output(life)[-300:]!r}" for life in peers.started_s if peers.output(life)
        ]
    return {"tries": count, "seed": seed, "outages": outages, "problems": problems}


def _judge(journals: dict[str, list[dict[str, Any]]], begin_s: float, end_s: float) -> dict[str, Any]:
    paces: dict[str, list[float]] = {"before": [], "during": [], "after": []}
    longest_s, said, others, back = 0.0, [], [], []
    for journal in journals.values():
        spans = {
            "before": (begin_s - _BEFORE_S, begin_s),
            "during": (begin_s, end_s),
            "after": (end_s, end_s + _AFTER_S),
        }
        for name, (since_s, until_s) in spans.items():
            marks = [
                e["at_s"] for e in journal if e["kind"] == "interval" and since_s <= e["at_s"] <= until_s
            ]
            if len(marks) > 1:
                paces[name].append(INTERVAL_STEPS * (len(marks) - 1) / (marks[-1] - marks[0]))
        outage = [e for e in journal if begin_s <= e["at_s"] <= end_s + _AFTER_S]
        longest_s = max(longest_s, *(e["longest_stall_s"] for e in outage if e["kind"] == "interval"))
        messages = [e["message"] for e in outage if e["kind"] == "warning"]
        said.append(sum("Training goes on" in message for message in messages))
        others.append(len(messages) - said[-1])
        back.append(_intervals_until_back(journal, end_s))
    return {
        "seconds": end_s - begin_s,
        "steps_per_s": {name: statistics.mean(values) for name, values in paces.items()},
        "longest_stall_s": longest_s,
        "store_warnings": said,
        "other_warnings": others,
        "intervals_until_back": back,
    }


def _intervals_until_back(journal: list[dict[str, Any]], end_s: float) -> int | None:
    """Return within how many intervals a peer has both published and taken something; None if it has not."""
    intervals, missing = 0, {"published", "took"}
    for event in journal:
        if event["at_s"] >= end_s:
            missing.discard(event["kind"])
            intervals += event["kind"] == "interval"
            if not missing:
                return intervals
    return None

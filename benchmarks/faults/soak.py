"""Three peers that train for long while one fault after the other happens to them."""

import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scipy import stats

from faults.damage import kinds
from faults.fleet import INTERVAL_STEPS, Fleet, fleet

ROUNDS: Final = 5
_CALM_S: Final = 8.0
_FOUND_BACK_S: Final = 30.0
_AFTERMATH_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fault that has happened."""

    kind: str
    """Its name."""
    begin_s: float
    """When it began."""
    end_s: float
    """When it was over."""
    details: dict[str, Any]
    """What it hit."""
    is_followed: bool
    """Whether the next one waited until all peers had found back."""


def run(folder: Path, *, minutes: float, undisturbed_minutes: float, seed: int) -> dict[str, Any]:
    """Train with faults and without in turn, five times each; return what came of it.

    **Blocks**: for all those minutes.

    Args:
        folder: A new one.
        minutes: With faults, in all.
        undisturbed_minutes: Without, each time.
        seed: Of which faults happen.
    """
    parts: list[dict[str, Any]] = []
    for number in range(ROUNDS):
        for has_faults in (False, True):
            rng = random.Random(f"{seed} {number}") if has_faults else None
            seconds = 60 * (minutes / ROUNDS if has_faults else undisturbed_minutes)
            part = _train(folder / f"{number}-{int(has_faults)}", seconds, rng)
            parts.append(part)
            told = f"{part['steps_per_s']:.2f} steps/s, load {part['load'][1]:.1f}, {part['faults']} faults"
            print(f"round {number}, {'with' if has_faults else 'without'} faults: {told}", file=sys.stderr)
            for problem in part["problems"]:
                print(f"  {problem}", file=sys.stderr)
    return _sum_up(parts, minutes=minutes, undisturbed_minutes=undisturbed_minutes, seed=seed)


def _train(folder: Path, seconds: float, rng: random.Random | None) -> dict[str, Any]:
    """Let three peers train for so long, and faults happen to them if there is something to draw them by."""
    load = [os.getloadavg()[0]]
    events: list[Event] = []
    with fleet(folder) as peers:
        has_own_disk = peers.has_own_disk
        promises = {kind.name: kind.promise for kind in kinds(peers)}
        until_s = time.monotonic() + seconds
        if rng is None:
            time.sleep(seconds)
        else:
            time.sleep(_CALM_S)
            while time.monotonic() < until_s - _CALM_S:
                events.append(_strike(peers, rng))
            time.sleep(_CALM_S)
        load.append(os.getloadavg()[0])
        peers.bury()
        peers.stop()
        lives = {life: peers.journal(life) for life in peers.started_s}
        outputs = {life: peers.output(life) for life in lives}
    problems = list(_find_errors(peers, lives, outputs, events))
    checked, wrong = _check_taken(lives)
    return {
        "has_faults": rng is not None,
        "has_own_disk": has_own_disk,
        "promises": promises,
        "seconds": seconds,
        "load": load,
        "faults": len(events),
        "steps_per_s": _pace(lives),
        "taken": checked,
        "problems": problems + wrong,
        "kinds": {
            name: _judge([event for event in events if event.kind == name], peers, lives)
            for name in sorted({event.kind for event in events})
        },
    }


def _strike(peers: Fleet, rng: random.Random) -> Event:
    listed = kinds(peers)
    (kind,) = rng.choices(listed, [kind.share for kind in listed])
    begin_s = time.monotonic()
    details = kind.strike(peers, rng)
    end_s = time.monotonic()
    is_followed = kind.hits_all and rng.random() < 0.7
    if is_followed:
        peers.wait(lambda: _have_found_back(peers, end_s), _FOUND_BACK_S)
    time.sleep(rng.uniform(0.3, 2.0))
    return Event(kind=kind.name, begin_s=begin_s, end_s=end_s, details=details, is_followed=is_followed)


def _have_found_back(peers: Fleet, since_s: float) -> bool:
    return all(
        _intervals_until(kind, peers.journal(peers.current(peer)), since_s) is not None
        for peer in peers.alive
        for kind in ("published", "took")
    )


def _intervals_until(
    kind: str, journal: Iterable[dict[str, Any]], since_s: float, **fields: Any
) -> int | None:
    """Return how many intervals went by until something happened; None if it did not."""
    intervals = 0
    for event in journal:
        if event["at_s"] < since_s:
            continue
        if event["kind"] == kind and all(event[name] == value for name, value in fields.items()):
            return intervals
        intervals += event["kind"] == "interval"
    return None


def _pace(lives: dict[tuple[str, int], list[dict[str, Any]]]) -> float:
    """Return steps a second, over all the time in which peers trained, but for each life's first interval."""
    steps, seconds = 0, 0.0
    for journal in lives.values():
        intervals = [event for event in journal if event["kind"] == "interval"][1:]
        if len(intervals) > 1:
            steps += intervals[-1]["step"] - intervals[0]["step"]
            seconds += intervals[-1]["at_s"] - intervals[0]["at_s"]
    return steps / seconds if seconds else math.nan


def _find_errors(
    peers: Fleet,
    lives: dict[tuple[str, int], list[dict[str, Any]]],
    outputs: dict[tuple[str, int], str],
    events: list[Event],
) -> Iterator[str]:
    """Yield what reached a trainer, or left it without a word."""
    for life, journal in lives.items():
        name = f"{life[0]} in life {life[1]}"
        has_begun = any(event["kind"] == "began" for event in journal)
        for event in journal:
            # At the start a peer says that what it would go on from is damaged.
            if event["kind"] == "error" and has_begun:
                yield f"{name}: {event['type']}: {event['message']}"
        if not has_begun and life not in peers.killed_s and not _was_refused(journal):
            yield f"{name} did not begin"
        if has_begun and life not in peers.killed_s and peers.exit_codes.get(life) != 0:
            yield f"{name} ended with exit code {peers.exit_codes.get(life)}"
        if outputs[life] and has_begun:
            yield f"{name} printed {outputs[life][-300:]!r}"
    for event in events:
        if event.details.get("taken") is False:
            yield f"the others did not take what {event.details['peer']} published after {event}"


def _was_refused(journal: list[dict[str, Any]]) -> bool:
    return any(event["kind"] == "error" and event["type"].startswith("Snapshot") for event in journal)


def _check_taken(lives: dict[tuple[str, int], list[dict[str, Any]]]) -> tuple[int, list[str]]:
    """Return how often a teacher got new weights, and where these were not to the bit what was published."""
    published = {
        (life[0], event["incarnation"], event["step"]): event["digest"]
        for life, journal in lives.items()
        for event in journal
        if event["kind"] == "weights"
    }
    checked, wrong = 0, []
    for life, journal in lives.items():
        newest: dict[str, tuple[int, int]] = {}
        for event in journal:
            if event["kind"] != "took":
                continue
            checked += 1
            order = (event["incarnation"], event["sequence"])
            if order < newest.get(event["peer"], (-1, -1)):
                wrong.append(f"{life} went back to {event}")
            newest[event["peer"]] = order
            if published.get((event["peer"], event["incarnation"], event["of_step"])) != event["digest"]:
                wrong.append(f"{life} took what was never published: {event}")
    return checked, wrong


def _judge(
    events: list[Event], peers: Fleet, lives: dict[tuple[str, int], list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return what all faults of one kind came to."""
    back: list[int] = []
    lost: list[str] = []
    stalls, steps, said = [0.0], [0.0], [0]
    for event in events:
        during = {
            life: [e for e in journal if event.begin_s <= e["at_s"] <= event.end_s + _AFTERMATH_S]
            for life, journal in lives.items()
        }
        for seen in during.values():
            intervals = [e for e in seen if e["kind"] == "interval"]
            stalls += [e["longest_stall_s"] for e in intervals]
            steps += [e["longest_step_s"] for e in intervals]
            said.append(sum(e["kind"] == "warning" for e in seen))
        if event.is_followed:
            for life, journal in lives.items():
                if _is_alive(life, event, peers, journal):
                    for kind in ("published", "took"):
                        found = _intervals_until(kind, journal, event.end_s)
                        if found is None:
                            lost.append(f"{life} has {kind} nothing after {event}")
                        else:
                            back.append(found)
        if "life" in event.details and not event.details["damage"]:
            back += _intervals_until_taken(event, lives, lost)
    return {
        "tries": sum("missed" not in event.details for event in events),
        "lost": lost,
        "refused_at_start": sum(len(event.details.get("refused", ())) for event in events),
        "judged": len(back),
        "most_intervals": max(back, default=None),
        "longest_stall_s": max(stalls),
        "longest_step_s": max(steps),
        "most_warnings": max(said),
    }


def _is_alive(life: tuple[str, int], event: Event, peers: Fleet, journal: list[dict[str, Any]]) -> bool:
    """Return whether a life began before a fault and did not end within the time to find back."""
    began = [e["at_s"] for e in journal if e["kind"] == "began"]
    end_s = peers.killed_s.get(life, math.inf)
    return bool(began) and began[0] < event.begin_s and end_s > event.end_s + _FOUND_BACK_S


def _intervals_until_taken(
    event: Event, lives: dict[tuple[str, int], list[dict[str, Any]]], lost: list[str]
) -> list[int]:
    """Return in how many intervals each survivor took the first snapshot of one that came back, or later."""
    back = (event.details["peer"], event.details["life"])
    began = next((e for e in lives[back] if e["kind"] == "began"), None)
    first = next((e for e in lives[back] if e["kind"] == "published"), None)
    if began is None or first is None:
        lost.append(f"{back} has published nothing")
        return []
    counts = []
    for life, journal in lives.items():
        is_survivor = life[0] != back[0] and any(
            e["kind"] == "interval" and e["at_s"] > first["at_s"] for e in journal
        )
        if not is_survivor or journal[0]["at_s"] > first["at_s"]:
            continue
        since_s = min(first["at_s"], event.end_s)
        fields = {"peer": back[0], "incarnation": began["incarnation"]}
        found = _intervals_until("took", journal, since_s, **fields)
        if found is None:
            # Taken before its publisher had noticed that it was published.
            found = 0 if _intervals_until("took", journal, 0.0, **fields) is not None else math.inf
        if found > 3:
            lost.append(f"{life} took the first snapshot of {back} after {found} intervals")
        else:
            counts.append(int(found))
    return counts


def _sum_up(
    parts: list[dict[str, Any]], *, minutes: float, undisturbed_minutes: float, seed: int
) -> dict[str, Any]:
    with_faults = [part for part in parts if part["has_faults"]]
    without = [part for part in parts if not part["has_faults"]]
    summed: dict[str, Any] = {}
    for part in with_faults:
        for name, judged in part["kinds"].items():
            one = summed.setdefault(name, {"promise": part["promises"][name]})
            for field in ("tries", "refused_at_start", "judged", "lost"):
                one[field] = one[field] + judged[field] if field in one else judged[field]
            for field in ("most_intervals", "longest_stall_s", "longest_step_s", "most_warnings"):
                known = [value for value in (one.get(field), judged[field]) if value is not None]
                one[field] = max(known, default=None)
    return {
        "minutes": minutes,
        "undisturbed_minutes": undisturbed_minutes,
        "seed": seed,
        "interval_steps": INTERVAL_STEPS,
        "has_own_disk": all(part["has_own_disk"] for part in parts),
        "faults": sum(part["faults"] for part in parts),
        "snapshots_taken": sum(part["taken"] for part in with_faults),
        "problems": [problem for part in parts for problem in part["problems"]],
        "kinds": {name: summed[name] for name in sorted(summed)},
        "throughput": compare(
            [part["steps_per_s"] for part in without], [part["steps_per_s"] for part in with_faults]
        ),
        "load": [part["load"] for part in parts],
    }


def compare(without: list[float], with_faults: list[float]) -> dict[str, Any]:
    """Return whether peers train with faults as fast as without.

    The interval is the one in which 95% of runs without faults are to be expected, by Student's t from those
    that there are.

    Args:
        without: Steps a second of each run without faults, two or more.
        with_faults: The same with faults.
    """
    mean, spread = statistics.mean(without), statistics.stdev(without)
    half = float(stats.t.ppf(0.975, len(without) - 1)) * spread * math.sqrt(1 + 1 / len(without))
    disturbed = statistics.mean(with_faults)
    return {
        "without_faults": without,
        "with_faults": with_faults,
        "mean_without": mean,
        "low": mean - half,
        "high": mean + half,
        "mean_with": disturbed,
        "is_inside": mean - half <= disturbed <= mean + half,
    }

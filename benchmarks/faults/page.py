"""The page about failure, written from the results and from the table of promises."""

import textwrap
from collections.abc import Iterator
from typing import Any, Final

from faults.promises import PROMISES

_WIDTH: Final = 110

_INTRODUCTION: Final = """\
# What happens on failure

<!-- Written by `make faults` from docs/results/faults.json and benchmarks/faults/promises.py. -->

A peer is an ordinary job, and the others must not suffer for it. This page lists what is promised, the tests
that do each of these things to it, and what came of doing them for long. Words are those of the
[glossary](glossary.md); how it works is told in [architecture](architecture.md).

## Promises

Each row is done by the tests beside it, which `make test` runs.
"""

_LONG_RUN: Final = """\
## For long

`make faults` kills real processes and breaks real files, for about an hour; the numbers below are those of
[faults.json](results/faults.json).
"""


def write_page(results: dict[str, Any]) -> str:
    """Return the page.

    Args:
        results: Those sections that there are.
    """
    return "\n".join(_parts(results))


def is_kept(results: dict[str, Any]) -> bool:
    """Return whether no result shows a broken promise; throughput apart, which the machine has a part in."""
    kills, flips = results.get("kills"), results.get("flips")
    outages, soak = results.get("outages"), results.get("soak")
    broken = [
        kills is not None and (kills["torn"] or kills["not_removed"] or kills["not_pruned"]),
        flips is not None
        and any(flips[run]["wrong"] or flips[run]["not_recovered"] for run in ("unsigned", "signed")),
        outages is not None and (outages["problems"] or any(map(_is_bad, outages["outages"]))),
        soak is not None and (soak["problems"] or any(kind["lost"] for kind in soak["kinds"].values())),
    ]
    return not any(broken)


def _is_bad(outage: dict[str, Any]) -> bool:
    return any(count > 1 for count in outage["store_warnings"]) or None in outage["intervals_until_back"]


def _parts(results: dict[str, Any]) -> Iterator[str]:
    yield _INTRODUCTION
    rows = [
        (promise.what, promise.seen, ", ".join(f"`{test}`" for test in promise.tests)) for promise in PROMISES
    ]
    yield from _table(("what happens", "what the others see", "tests"), rows)
    yield _LONG_RUN
    if "kills" in results:
        yield from _kills(results["kills"])
    if "flips" in results:
        yield from _flips(results["flips"])
    if "outages" in results:
        yield from _outages(results["outages"])
    if "soak" in results:
        yield from _soak(results["soak"])


def _kills(kills: dict[str, Any]) -> Iterator[str]:
    yield "### Killed while publishing\n"
    yield _text(
        f"A publisher was killed {kills['tries']} times with SIGKILL: half of the times by a "
        "signal from outside at a random instant, half at a random line of its own, with "
        "preference for those that write. After each kill a reader that had been there all "
        "the time, and one that came anew, looked for its newest snapshot: "
        f"{len(kills['torn'])} times they found anything but a whole one that verifies and is "
        "no older than the last one that was complete."
    )
    rows = [(what, f"{count}") for what, count in kills["left"].items()]
    yield from _table(("left of the snapshot under way", "kills"), rows)
    yield _text(
        f"When the peer came back, {kills['not_removed']} snapshots were left that nobody "
        f"needs; after `codistill doctor --prune`, {kills['not_pruned']}. Of the temporary "
        "files of a folder store, whose names begin with a dot and which no reader sees, "
        f"{kills['hidden_files']} were left at the end."
    )


def _flips(flips: dict[str, Any]) -> Iterator[str]:
    runs = [(name, flips[name]) for name in ("unsigned", "signed")]
    total = sum(sum(run["tries"].values()) for _, run in runs)
    yield "### Flipped bits\n"
    yield _text(
        f"In {total} new snapshots of a peer one random bit was flipped, in the pointer, the "
        "manifest or the shard, and the other peer looked. Refused is: one warning with peer "
        "and key, and the teacher is to the bit what it was. Harmless is: taken, and the "
        "teacher is to the bit what was published."
    )
    rows = [
        (
            name,
            document,
            str(run["tries"][document]),
            str(run["refused"][document]),
            str(run["harmless"][document]),
            str(run["tries"][document] - run["refused"][document] - run["harmless"][document]),
        )
        for name, run in runs
        for document in run["tries"]
    ]
    yield from _table(("run", "document", "flipped", "refused", "harmless", "anything else"), rows)
    lost = sum(run["not_recovered"] for _, run in runs)
    yield f"The next good snapshot was taken after all but {lost} of them.\n"


def _outages(outages: dict[str, Any]) -> Iterator[str]:
    yield "### Outages\n"
    yield _text(
        "Three peers train, with steps of about 20 ms and an interval of 50; the store is "
        "taken away and comes back. The pace is the mean of the three in the 20 s before, "
        "during the outage, and in the 20 s after. Warnings are the most that any peer gave: one about the "
        "store, and about its teachers that their snapshots have become too old, as 20 intervals go by in "
        "less than half a minute here."
    )
    rows = []
    for outage in outages["outages"]:
        pace = outage["steps_per_s"]
        back = outage["intervals_until_back"]
        rows.append(
            (
                f"{outage['seconds']:.0f} s",
                *(f"{pace[name]:.1f}" for name in ("before", "during", "after")),
                f"{1000 * outage['longest_stall_s']:.0f} ms",
                str(max(outage["store_warnings"])),
                str(max(outage["other_warnings"])),
                "never" if None in back else str(max(back)),
            )
        )
    heads = (
        "away",
        "steps/s before",
        "during",
        "after",
        "longest stall of a step",
        "warnings of a peer about the store",
        "about its teachers",
        "intervals until all had published and taken again",
    )
    yield from _table(heads, rows)


def _soak(soak: dict[str, Any]) -> Iterator[str]:
    pace = soak["throughput"]
    yield "### One fault after the other\n"
    yield _text(
        f"Three peers trained for {soak['minutes']:g} minutes while {soak['faults']} faults "
        f"happened to them, and five times {soak['undisturbed_minutes']:g} minutes without, in "
        "turn. A new weight of a teacher was compared with what its peer had published "
        f"{soak['snapshots_taken']} times. What broke a promise, or reached a trainer "
        f"unpromised: {len(soak['problems'])}."
    )
    yield _text(
        "A stall is what one step spent in the exchange; the longest is that of any peer "
        "during the fault and three seconds after. Intervals are the most that a peer needed "
        "to publish and take again, or, of one that was killed, that the others needed to "
        "take its first new snapshot (judged where nothing else was broken meanwhile). A file that "
        "was flipped, truncated or deleted may have been one that nobody had to read any more."
    )
    rows = [
        (
            name,
            kind["promise"],
            str(kind["tries"]),
            str(len(kind["lost"])),
            f"{1000 * kind['longest_stall_s']:.0f} ms",
            "-" if kind["most_intervals"] is None else f"{kind['most_intervals']} (of {kind['judged']})",
        )
        for name, kind in soak["kinds"].items()
    ]
    yield from _table(("fault", "promise", "tries", "lost", "longest stall", "intervals"), rows)
    refused = sum(kind["refused_at_start"] for kind in soak["kinds"].values())
    yield _text(
        f"{refused} times a peer that came back refused to start, as its own newest snapshot "
        "had been damaged while it was away, and started once its pointer was deleted."
    )
    loads = [load for pair in soak["load"] for load in pair]
    where = "inside" if pace["is_inside"] else "outside"
    yield _text(
        f"Peers made {pace['mean_with']:.2f} steps a second with faults and "
        f"{pace['mean_without']:.2f} without, {where} the interval in which 95% of undisturbed "
        f"runs are to be expected by the five that there were, [{pace['low']:.2f}, "
        f"{pace['high']:.2f}]. The load of the machine, which had other work too, was between "
        f"{min(loads):.1f} and {max(loads):.1f}."
    )


def _text(text: str) -> str:
    """Return a paragraph."""
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""

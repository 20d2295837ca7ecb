"""The page about the network, written from the results."""

import re
import statistics
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from network.cases import Case, Cut, cuts
from network.forecast import CALIBRATED_ON, Results, Row, compare

MOST_BYTES_OFF: Final = 0.05
"""By how much the planned bytes may be off."""
MOST_SECONDS_OFF: Final = 0.25
"""By how much the planned seconds may be off, on the slow link."""
SLOW_RATE: Final = "100Mbit"
"""The rate at which seconds are judged: on a faster link the processor counts for more."""
LONGEST_STALL_S: Final = 1.0
"""What no step may spend in an exchange of snapshots while the link is cut."""

_WIDTH: Final = 110
_INTRODUCTION: Final = """\
# On a real network

<!-- Written by `make network` from docs/results/network.json. -->

Two training jobs on two hosts, and the bytes that cross the link between them. The hosts are network
namespaces of one machine, joined by a pair of virtual interfaces whose rate is limited at both ends (`tc`,
token bucket) to 100 Mbit/s or 1 Gbit/s; frames have 1514 bytes at most, as on an Ethernet. Bytes are what
host b's interface counts: every frame, with all headers and acknowledgements. Words are those of the
[glossary](glossary.md); how much it may cost elsewhere, `codistill plan` tells.
"""

_WAYS: Final = """\
All-reduce is one `DistributedDataParallel` job of two ranks on gloo, one rank a host. Exchange of
predictions is two peers on gloo. Exchange of snapshots is two peers and a store that is on host a: an S3
server (moto's) or OpenSSH's `sftp`. Host b's peer so has all of its traffic on the link, as a peer has whose
store is elsewhere. Both peers train at once. Each step sleeps 20 ms, as a process does that waits for its
accelerator; the rest of it is computed here.
"""

_NOT_DONE: Final = """\
## What was not done

- The link has a rate and a queue of 50 ms, but no delay of its own and no loss: this machine's kernel has no
  `netem`. An ocean between the hosts adds a round trip to every request and every collective.
- Both hosts, the store and whoever shares the machine compute on the same few cores. Seconds of 1 Gbit/s,
  and of codecs, are as much the processor's as the link's.
- At 1 Gbit/s frames now and then overtake one another between the namespaces, and TCP sends some of them
  twice, which counts: up to a few percent.
- Two peers of one rank each, on CPUs, with small perceptrons. No NCCL, no TLS (SFTP encrypts).
- Moto is not S3: its answers are as large, its speed and its limits are not.
- The peer on host a reaches the store without the link; its transfers are in no figure here.
- With an interval of 500 each run is one interval. A run waits for its transfers before it goes on, so that
  intervals are whole; at 100 Mbit/s a publish may take longer than 50 steps, and would else be skipped.
"""


def write_page(results: Results) -> str:
    """Return the page.

    Args:
        results: As far as there are any.
    """
    return "\n".join(_parts(results))


def missed(results: Results) -> list[str]:
    """Return which limits are missed, a sentence each."""
    found = []
    for row in compare(results):
        if row.error is None:
            continue
        is_judged = row.is_bytes or row.case.rate == SLOW_RATE
        limit = MOST_BYTES_OFF if row.is_bytes else MOST_SECONDS_OFF
        if is_judged and abs(row.error) > limit:
            found.append(f"{row.case.key}: {row.what} is planned {row.error:+.1%} off, over {limit:.0%}.")
    for key, runs in results.get("cases", {}).items():
        for run in runs:
            if run["warnings"]:
                found.append(f"{key}: somebody was warned: {run['warnings'][0]}")
    for cut in cuts():
        outcome = results.get("cuts", {}).get(cut.name)
        in_it = {} if outcome is None else outcome["peers"]
        for name, peer in in_it.items():
            found += [f"cut of {cut.name}: peer {name} {problem}." for problem in _problems(cut, peer)]
    return found


def _problems(cut: Cut, peer: dict[str, Any]) -> Iterator[str]:
    """Yield what is not as the page says."""
    if ("error" in peer) != (cut.timeout_s is not None):
        yield f"failed ({peer['error']})" if "error" in peer else "did not fail"
    if "error" in peer:
        return
    if peer["back_to_training_s"] is None:
        yield "has not gone on"
    if cut.store is None:
        return
    stall_s = peer["during"]["longest_stall_s"]
    if stall_s is None or stall_s > LONGEST_STALL_S:
        yield f"stalled for {stall_s} s"
    if peer["back_to_fetching_s"] is None or peer["back_to_publishing_s"] is None:
        yield "has not found back"


def _parts(results: Results) -> Iterator[str]:
    yield _INTRODUCTION
    yield _WAYS
    if "sizes" in results:
        yield _text(_describe_sizes(results["sizes"]))
    rows = list(compare(results))
    if rows:
        yield from _bytes(rows)
        yield from _seconds(rows)
    if results.get("cuts"):
        yield from _cuts(results["cuts"])
    yield from _limits(missed(results))
    yield _NOT_DONE
    if "machine" in results:
        yield from _circumstances(results)


def _describe_sizes(sizes: dict[str, dict[str, int]]) -> str:
    sentences = [
        f"The {name} model has {size['parameters']:,} parameters ({4 * size['parameters'] / 1e6:.1f} MB), "
        f"{size['classes']} classes and a batch of {size['batch']}."
        for name, size in sizes.items()
    ]
    return " ".join(sentences)


def _bytes(rows: list[Row]) -> Iterator[str]:
    yield "## Bytes\n"
    yield _text(
        "Kilobytes a step of host b's peer, beside what `codistill.planner` says of that model, batch and "
        "interval without having seen any measurement. It must not be more than "
        f"{MOST_BYTES_OFF:.0%} off. The share is of what all-reduce sends and receives."
    )
    for rate in _in_order(row.case.rate for row in rows):
        table = []
        whole = {
            (row.case.size, row.what): row.median
            for row in rows
            if (row.case.rate, row.case.scheme) == (rate, "all_reduce")
        }
        pairs: dict[Case, dict[str, Row]] = {}
        for row in rows:
            if row.case.rate == rate and row.is_bytes:
                pairs.setdefault(row.case, {})[row.what] = row
        for case, pair in pairs.items():
            cells = [case.size, *_name(case)]
            for what in pair:
                row = pair[what]
                cells += [
                    _spread(row.measured, 1e-3, _kilobytes),
                    _kilobytes((row.planned or 0) / 1000),
                    _percent(row.error),
                ]
            total = sum(row.median for row in pair.values())
            reference = sum(whole.get((case.size, what), 0.0) for what in pair)
            cells.append(f"{total / reference:.2%}" if reference else "")
            table.append(tuple(cells))
        yield f"### {_rate(rate)}: bytes\n"
        heads = ("model", "way", "every", "sent, kB a step", "plan", "off")
        yield from _table((*heads, "received, kB a step", "plan", "off", "share"), table)


def _seconds(rows: list[Row]) -> Iterator[str]:
    yield "## Seconds\n"
    yield _text(
        "Milliseconds of a step (median of each run), and of each publish and fetch over the link; first "
        "the median, in brackets the least and the most. The plan of the other model was told what the "
        f"{CALIBRATED_ON} one took: for a collective, how long besides its bytes; for publishes and fetches, "
        "rate and latency of those of all codecs, for each kind of store. A collective's plan is held "
        "against each run, with the one alone of the same round, and the median counts; a transfer's against "
        "the least, as whoever else is at work on the machine only adds to it. "
        f"At {_rate(SLOW_RATE)} plans must not be more than {MOST_SECONDS_OFF:.0%} off. "
        "A step of an exchange of snapshots does not wait for the link: it pays for the teacher's forward, "
        "and for sharing the processor with the transfer."
    )
    for rate in _in_order(row.case.rate for row in rows):
        table = []
        groups: dict[Case, dict[str, Row]] = {}
        for row in rows:
            if row.case.rate == rate and not row.is_bytes:
                groups.setdefault(row.case, {})[row.what] = row
        for case, group in groups.items():
            cells = [case.size, *_name(case)]
            for what in ("step", "publish", "fetch"):
                found = group.get(what)
                cells += (
                    ["", ""]
                    if found is None
                    else [_spread(found.measured, 1e3, _milliseconds), _plan_of_seconds(found)]
                )
            table.append(tuple(cells))
        yield f"### {_rate(rate)}: seconds\n"
        heads = ("model", "way", "every", "step, ms", "plan", "publish, ms", "plan", "fetch, ms", "plan")
        yield from _table(heads, table)


def _cuts(outcomes: dict[str, Any]) -> Iterator[str]:
    yield "## The link is cut\n"
    seconds = {f"{outcome['cut_s']:g}" for outcome in outcomes.values()}
    yield _text(
        f"Both train at 100 Mbit/s with the small model, snapshots every 50 steps; then the link is cut for "
        f"{' or '.join(sorted(seconds))} s. Silent: frames get lost between the hosts, and nobody is told. "
        "Down: host b's own interface is down, which it notices at once. Patient: ranks wait for one another "
        "for 5 minutes; impatient: for 10 s. A stall is what one step spent in the exchange."
    )
    yield _text(
        "Peers that swap snapshots train on, with the teachers that they have, and take new ones when the "
        "link is back; a peer that has published nothing meanwhile may be passed over until it has seen half "
        "of the other's samples again. Ranks and peers that wait for one another at every step stand still: "
        "the patient go on when TCP sends again what got lost, which is the later the longer the link was "
        "cut, and the impatient end with an error."
    )
    table = []
    for cut in cuts():
        outcome = outcomes.get(cut.name)
        if outcome is None:
            continue
        for name, peer in outcome["peers"].items():
            cells = [cut.name, name]
            if "error" in peer:
                table.append((*cells, *[""] * 7, f"`{_shorten(peer['error'])}`"))
                continue
            pace = [f"{peer[span]['steps_per_s']:.1f}" for span in ("before", "during", "after")]
            during, after = peer["during"], peer["after"]
            stalls = [span["longest_stall_s"] for span in (during, after) if span["longest_stall_s"]]
            steps = [span["longest_step_s"] for span in (during, after) if span["longest_step_s"]]
            table.append(
                (
                    *cells,
                    *pace,
                    "" if not steps else f"{max(steps):.2f} s",
                    "" if cut.scheme == "all_reduce" or not stalls else f"{max(stalls):.2f} s",
                    _after(peer["back_to_training_s"]),
                    "" if cut.store is None else _after(peer["back_to_fetching_s"]),
                    _said(peer["warnings"]),
                )
            )
    heads = (
        "way",
        "host",
        "steps/s before",
        "during",
        "after",
        "longest step",
        "longest stall",
        "next step after",
        "next fetch after",
        "said",
    )
    yield from _table(heads, table)


def _limits(sentences: list[str]) -> Iterator[str]:
    yield "## What missed its limit\n"
    yield from [f"- {sentence}" for sentence in sentences] or ["Nothing."]
    yield ""


def _shorten(error: str) -> str:
    """Return the first sentence of an error, without the file of torch's that it comes from."""
    return re.sub(r"\[\S+\] ", "", error).split(". ")[0]


def _said(warnings: list[str]) -> str:
    return "nothing" if not warnings else f"{len(warnings)} warning{'s' * (len(warnings) > 1)}"


def _circumstances(results: Results) -> Iterator[str]:
    machine, versions, loads = results["machine"], results["versions"], results["loads"]
    runs = [len(runs) for runs in results.get("cases", {}).values()] or [0]
    yield "## With what\n"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield _text(
        f"{machine['system']} on {machine['architecture']} ({machine['processor']}, {machine['cores']} "
        f"cores); {named}. Between {min(runs)} and {max(runs)} runs of each case, in rounds. The load of the "
        f"machine, which had other work too, was {statistics.median(loads):.1f} at the median, between "
        f"{min(loads):.1f} and {max(loads):.1f}."
    )


def _name(case: Case) -> list[str]:
    kind, _, codec = case.scheme.partition("/")
    words = {
        "alone": "alone",
        "all_reduce": "all-reduce",
        "prediction": f"predictions, {codec}",
        "checkpoint": f"snapshots, {codec}, {case.store}",
    }
    return [words[kind].replace("top_k", "top-32"), f"{case.interval_steps or 1}"]


def _rate(rate: str) -> str:
    return rate.replace("bit", "bit/s").replace("100M", "100 M").replace("1G", "1 G")


def _plan_of_seconds(row: Row) -> str:
    if row.planned is None or row.error is None:
        return ""
    return f"{_milliseconds(1000 * row.planned)} ({_percent(row.error)})"


def _spread(values: list[float], factor: float, write: Any) -> str:
    low, high = write(factor * min(values)), write(factor * max(values))
    middle = write(factor * statistics.median(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def _kilobytes(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.3f}"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}%"


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def _in_order(values: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _text(text: str) -> str:
    """Return a paragraph."""
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""

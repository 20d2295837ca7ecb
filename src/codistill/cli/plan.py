"""``codistill plan``: what each way of training several peers costs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from codistill.cli import output, parsing
from codistill.cli.usage import UsageError
from codistill.exchange.prediction.codec import TopK
from codistill.lab import recipes
from codistill.lab.data_root import data_root as find_data_root
from codistill.lab.planning import job_of
from codistill.planner import Cost, Job, Link, Model, Plan, advise, guesses, plan, slow_link
from codistill.planner.units import format_bytes, format_number, format_seconds, parse_count, parse_rate


@dataclass(frozen=True, kw_only=True)
class Words:
    """Say what each way of training several peers costs: bytes, memory, time; and which to choose.

    With a recipe everything about the job is counted, and options replace what was counted. Without one,
    --params, --batch-per-peer and --outputs are needed.
    """

    recipe: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="RECIPE")]] = None
    """Name of a recipe."""
    params: str | None = None
    """Weights of a peer's model, such as 1.3e9."""
    peers: int | None = None
    """Models that are trained; 2 if not given."""
    ranks_per_peer: int | None = None
    """Ranks that train one of them; 1 if not given."""
    batch_per_peer: int | None = None
    """Samples a step of a peer, over all its ranks."""
    positions: int | None = None
    """Predictions a sample, such as tokens; 1 if not given."""
    outputs: int | None = None
    """Classes, or vocabulary."""
    weight_dtype: str | None = None
    """Dtype of weights and gradients; float32 if not given."""
    logits_dtype: str | None = None
    """Dtype of logits; float32 if not given."""
    optimizer: str | None = None
    """sgd, sgd_momentum, adagrad, rmsprop, adam or adamw; adam if not given."""
    sharded: tyro.conf.FlagCreatePairsOff[bool] = False
    """The ranks of a peer divide its weights among them (FSDP)."""
    interval_steps: int | None = None
    """Steps between two publishes; 50 if not given."""
    topology: str | None = None
    """ring or all; ring if not given."""
    top_k: int | None = None
    """Classes a prediction of the codec top_k, drawn ones included; 64 if not given."""
    sampled: int | None = None
    """Those of them that are drawn from the rest; a quarter if not given."""
    outer_steps: int | None = None
    """Steps between two averages of DiLoCo; 500 if not given."""
    step_s: float | None = None
    """Seconds of a step without any exchange between peers."""
    link: str | None = None
    """Rate of a peer's link to the others: 10Gbit, 100Mbit/s, 1GB/s."""
    latency_s: float | None = None
    """Seconds a round on that link, besides its bytes; 0 if not given."""
    data_root: Path | None = None
    """Folder that holds the data sets' folders; $CODISTILL_DATA, else ./data, if not given."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    words = parsing.call(Words, arguments, verb="plan")
    try:
        planned = plan(_job(words), _link(words))
    except (ValueError, TypeError) as e:
        raise UsageError(str(e)) from e
    if words.json:
        output.print_json(_to_document(planned))
    else:
        _print(planned)


def _job(words: Words) -> Job:
    fields: dict[str, Any] = {
        field: getattr(words, field)
        for field in (
            *("peers", "ranks_per_peer", "batch_per_peer", "positions", "outputs", "logits_dtype"),
            *("optimizer", "interval_steps", "topology", "outer_steps", "step_s"),
        )
        if getattr(words, field) is not None
    }
    if words.sharded:
        fields["is_sharded"] = True
    if words.top_k is not None:
        sampled = words.top_k // 4 if words.sampled is None else words.sampled
        fields["top_k"] = TopK(words.top_k, sampled=sampled)
    elif words.sampled is not None:
        raise UsageError(f"--sampled must come with --top-k, got {words.sampled}. Add --top-k.")
    weights: dict[str, Any] = {} if words.weight_dtype is None else {"weight_dtype": words.weight_dtype}
    if words.recipe is not None:
        job = job_of(recipes.recipe(words.recipe), data_root=find_data_root(words.data_root))
        if words.params is not None:
            model = Model(parameters=parse_count(words.params, "--params"), **weights)
        else:
            model = replace(job.model, **weights)
        # Left to the job's own choice unless it is said, as the outputs may be others.
        return replace(job, **{"model": model, "top_k": None, **fields})
    for option in ("params", "batch_per_peer", "outputs"):
        if getattr(words, option) is None:
            raise UsageError(
                f"--{option.replace('_', '-')} must be given, got nothing. Give it, or the name of a recipe."
            )
    model = Model(parameters=parse_count(words.params or "", "--params"), **weights)
    return Job(**{"model": model, "peers": 2, **fields})


def _link(words: Words) -> Link | None:
    if words.link is None:
        if words.latency_s is not None:
            raise UsageError(f"--latency-s must come with --link, got {words.latency_s}. Add --link.")
        return None
    return Link(bytes_per_s=parse_rate(words.link, "--link"), latency_s=words.latency_s or 0.0)


def _to_document(planned: Plan) -> dict[str, Any]:
    job = planned.job
    return {
        "job": {
            **asdict(job),
            "topology": type(job.topology).__name__.lower(),
            "teachers": job.teachers,
        },
        "link": None if planned.link is None else asdict(planned.link),
        "schemes": [
            {
                **asdict(cost),
                "rank_bytes": cost.rank_bytes(job),
                "memory": {
                    **asdict(cost.memory),
                    "device_bytes": cost.memory.device_bytes,
                    "host_bytes": cost.memory.host_bytes,
                },
            }
            for cost in planned.costs.values()
        ],
        "break_even_interval_steps": planned.break_even_interval_steps,
        "advice": asdict(advise(planned)),
        "slow_link": slow_link(planned),
        "guesses": list(guesses(planned)),
    }


def _print(planned: Plan) -> None:
    output.print_text(
        "Bytes a step. Sent and received: between peers, by a whole peer, as its interface counts them. "
        "Inside: by\neach rank, to others of its own peer."
    )
    sides = ("left", *["right"] * 7)
    headings = ("scheme", "sent", "received", "inside", "link busy", "stall", "age", "forwards")
    rows = [list(_traffic_cells(cost)) for cost in planned.costs.values()]
    output.print_table(dict(zip(headings, sides, strict=True)), rows)
    output.print_text("Memory of rank 0; staging and standby lie on the host.")
    parts = ("weights", "gradients", "optimizer", "teachers", "predictions", "staging", "standby")
    rows = [
        [cost.scheme, *(_bytes(getattr(cost.memory, f"{part}_bytes")) for part in parts)]
        for cost in planned.costs.values()
    ]
    output.print_table(dict(zip(("scheme", *parts), sides, strict=True)), rows)
    output.print_text("Break-even interval in steps: above it snapshots cost less than predictions.")
    break_even = planned.break_even_interval_steps
    others = list(break_even["checkpoint/exact"])
    rows = [
        [scheme, *(format_number(steps[other]) for other in others)] for scheme, steps in break_even.items()
    ]
    output.print_table({"scheme": "left", **dict.fromkeys(others, "right")}, rows)
    output.print_text(slow_link(planned))
    advice = advise(planned)
    interval = "" if advice.interval_steps is None else f", every {advice.interval_steps:,} steps"
    output.print_text(f"\nAdvice: {advice.scheme}{interval}.")
    for sentence in advice.reasons:
        output.print_text(f"- {sentence}")
    output.print_text("\nGuessed or left out:")
    for sentence in guesses(planned):
        output.print_text(f"- {sentence}")


def _traffic_cells(cost: Cost) -> Iterator[str]:
    yield cost.scheme
    yield format_bytes(cost.between.sent_bytes)
    yield format_bytes(cost.between.received_bytes)
    yield _bytes(cost.inside_bytes)
    yield "-" if cost.link_s is None else format_seconds(cost.link_s)
    yield "-" if cost.stall_s is None else format_seconds(cost.stall_s)
    yield "-" if cost.age_steps is None else f"{cost.age_steps:,}"
    yield f"{cost.teacher_forwards or '-'}"


def _bytes(count: float) -> str:
    return format_bytes(count) if count else "-"

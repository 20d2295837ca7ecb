"""What a job asks of Slurm: ``--job KEY=VALUE`` in sbatch's words, to what submitit calls it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from codistill.errors import RecipeError
from codistill.lab.launchers.settings import read_settings, whole_number

_NUMBERS = ("cpus-per-task", "gpus-per-node")
_AS_THEY_ARE = ("account", "constraint", "exclude", "gres", "mem", "nodelist", "partition", "qos")
KEYS = ("time", "nodes", "signal-delay-s", *_NUMBERS, *_AS_THEY_ARE)
"""The keys there are."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSettings:
    """What each job asks for."""

    time_minutes: int
    """How long one life of a job may take; when it is over, the job is queued again and goes on."""
    cpus_per_task: int | None = None
    """Cores of a job, which its ranks divide; one a rank if not given."""
    signal_delay_s: int = 90
    """How long before its time is over a job is told."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """The rest, by submitit's names."""

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Return what ``KEY=VALUE`` words ask for.

        Raises:
            RecipeError: If a key does not exist, a value cannot be, or there is no time.
        """
        given = read_settings(words, known=KEYS, on="slurm")
        if "time" not in given:
            raise RecipeError(
                "job must name a time on slurm, got none. Pass --job time=24:00:00; a run may take several: "
                "a job whose time is over is queued again."
            )
        if whole_number(given, "nodes", minimum=1, default=1) != 1:
            raise RecipeError(
                f"nodes must be 1, got {given['nodes']}: all ranks of a peer are on one node. "
                "For a peer on several, see examples/slurm.sbatch."
            )
        others: dict[str, Any] = {key: given[key] for key in _AS_THEY_ARE if key in given}
        if "gpus-per-node" in given:
            others["gpus_per_node"] = whole_number(given, "gpus-per-node", minimum=0, default=0)
        cpus = (
            whole_number(given, "cpus-per-task", minimum=1, default=1) if "cpus-per-task" in given else None
        )
        return cls(
            time_minutes=minutes(given["time"]),
            cpus_per_task=cpus,
            signal_delay_s=whole_number(given, "signal-delay-s", minimum=1, default=90),
            others=others,
        )


def minutes(time: str) -> int:
    """Return a time limit as Slurm writes it, in minutes, rounded up.

    Args:
        time: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        RecipeError: If it is none of these, or 0, which to Slurm is no limit.

    Example:
        >>> minutes("90"), minutes("24:00:00"), minutes("1-12"), minutes("0:30")
        (90, 1440, 2160, 1)
    """
    match = _TIME.fullmatch(time)
    seconds = 0
    if match is not None:
        parts = [int(part) for part in match["rest"].split(":")]
        if match["days"] is not None:
            hours, minute, second = (*parts, 0, 0)[:3]
            seconds = int(match["days"]) * 86400 + hours * 3600 + minute * 60 + second
        elif len(parts) == 3:
            seconds = parts[0] * 3600 + parts[1] * 60 + parts[2]
        else:
            seconds = parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
    if seconds == 0:
        raise RecipeError(
            f"time must be a limit as Slurm writes it, above 0, got {time!r}. "
            "Say minutes, hours:minutes:seconds or days-hours."
        )
    return -(-seconds // 60)

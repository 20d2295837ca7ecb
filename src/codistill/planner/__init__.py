"""What it will cost: bytes between peers and inside one, memory, time, and what follows from them."""

from codistill.planner.advice import Advice, advise, guesses, slow_link
from codistill.planner.costs import Cost, Plan, Transfer, plan
from codistill.planner.job import Job, Model
from codistill.planner.link import Link, Measurement, calibrate
from codistill.planner.memory import Memory
from codistill.planner.snapshot_size import snapshot_bytes
from codistill.planner.traffic import Traffic, all_reduce_bytes, break_even_interval_steps

__all__ = [
    "Advice",
    "Cost",
    "Job",
    "Link",
    "Measurement",
    "Memory",
    "Model",
    "Plan",
    "Traffic",
    "Transfer",
    "advise",
    "all_reduce_bytes",
    "break_even_interval_steps",
    "calibrate",
    "guesses",
    "plan",
    "slow_link",
    "snapshot_bytes",
]

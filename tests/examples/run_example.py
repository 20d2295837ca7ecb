"""Runs an example as it is: ``torchrun ... run_example.py EXAMPLE ARGUMENTS...``.

In the first life of rank 1 it dies, without a word, before optimizer step ``RANK_1_DIES_AT``, if that is set.
"""

import itertools
import os
import runpy
import sys

from torch.optim.optimizer import register_optimizer_step_pre_hook

_steps = itertools.count(1)


def die_in_time(optimizer, args, kwargs):
    if str(next(_steps)) == os.environ.get("RANK_1_DIES_AT"):
        os._exit(1)


if __name__ == "__main__":
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        register_optimizer_step_pre_hook(die_in_time)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    # With gloo (torch 2.13) about one interpreter in a hundred aborts while it shuts down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

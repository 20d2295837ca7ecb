"""Local SGD: ranks train apart and average their models every so many updates."""

import importlib
import warnings
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from codistill.lab.methods.averaged import Averaged


class LocalSGD(Averaged):
    """One model, averaged by torch's `PostLocalSGDOptimizer`, from the first interval on (Stich 2019)."""

    @override
    def wrap_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        if self._plan.ranks == 1:
            return optimizer
        with warnings.catch_warnings():
            # torch 2.13 warns of its own use of torch.jit while it is imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            averagers: Any = importlib.import_module("torch.distributed.algorithms.model_averaging.averagers")
            optimizers: Any = importlib.import_module("torch.distributed.optim")
        averager = averagers.PeriodicModelAverager(period=self._recipe.interval_steps, warmup_steps=0)
        # Counted from 1, so that the first averaging is after a whole interval.
        averager.step = 1
        wrapped: torch.optim.Optimizer = optimizers.PostLocalSGDOptimizer(optim=optimizer, averager=averager)
        return wrapped

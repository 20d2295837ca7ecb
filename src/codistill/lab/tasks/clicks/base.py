"""What tasks have in common that ask whether something happens: two classes, one logit, log loss."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from codistill.extras import require
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.clicks.network import HashedNetwork
from codistill.lab.tasks.samples import Samples, to_device

EMBEDDING = 8
"""Numbers that stand for a category."""
_WIDTHS = {"small": (128, 64), "paper": (2560, 1024, 256)}
_BATCH_SIZE = 4096


class ClickTask(Task):
    """Numbers and hashed categories, and whether something happened (class 1) or not.

    Samples are ``(features, buckets)``, float32 [samples, numbers] and int64 [samples, categories].

    Models: ``small`` has hidden layers of 128 and 64 units. ``paper`` has 2560, 1024 and 256: what Anil et
    al. 2018 are said to have used on Criteo's challenge, unverified; how large their embeddings and how many
    their buckets were is not known here.

    Attributes:
        numbers: Numeric features, with the indicators of missing ones.
        categories: Columns of categories.
    """

    models = tuple(_WIDTHS)
    metric: ClassVar[Literal["accuracy", "nll"]] = "nll"
    buckets: ClassVar[int] = 1024
    """Of each column of categories."""

    classes = 2
    numbers: int
    categories: int

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        """Return a new `HashedNetwork`.

        Args:
            name: ``"small"`` or ``"paper"``; None for the first.
            width: Units of the first hidden layer; the others keep their ratio to it.

        Raises:
            RecipeError: If there is no such model.
        """
        widths = _WIDTHS[choose_model(self, name)]
        if width is not None:
            widths = tuple(max(1, width * units // widths[0]) for units in widths)
        return HashedNetwork(self.numbers, self.categories, self.buckets, embedding=EMBEDDING, widths=widths)

    @override
    def loss(
        self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, prior: Tensor | None = None
    ) -> Tensor:
        """Return the task loss: binary cross entropy, mean over the batch, 0-d.

        Args:
            logits: Of class 1, [batch, 1].
            targets: 0 or 1, int64 [batch].
            smoothing: Share of each target that is replaced by the prior's.
            prior: Probabilities of both classes, float [2]; one half each if None.
        """
        wanted = targets.to(logits.dtype)
        if smoothing:
            happens = 0.5 if prior is None else prior[1].to(logits)
            wanted = (1 - smoothing) * wanted + smoothing * happens
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), wanted)

    @override
    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the log-probability of both classes, float32 [batch, 2].

        Args:
            logits: Of class 1, [batch, 1].
        """
        logits = logits.float().squeeze(-1)
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)

    @override
    def further_scores(
        self, model: nn.Module, samples: Samples, *, device: torch.device
    ) -> Mapping[str, float]:
        """Return ``auc``, the area under the ROC curve; nothing where only one class occurs.

        Args:
            model: In eval mode, on ``device``.
            samples: Of validation or test.
            device: Where the model is.

        Raises:
            ExtraMissingError: If scikit-learn is not installed.
        """
        logits, targets = [], []
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(samples)), _BATCH_SIZE):
                inputs, happened = samples.batch(rows)
                logits.append(model(*to_device(self.inputs(inputs), device)).float().squeeze(-1).cpu())
                targets.append(happened.cpu())
        happens = torch.cat(targets).numpy()
        if len(np.unique(happens)) < 2:
            return {}
        area = require("sklearn.metrics", "lab").roc_auc_score(happens, torch.cat(logits).numpy())
        return {"auc": float(area)}

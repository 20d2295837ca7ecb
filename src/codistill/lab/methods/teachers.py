"""The first phase of methods with two: models that train alone and leave their last weights in a store."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from codistill.codistiller import Codistiller
from codistill.exchange.checkpoint import CheckpointExchange, Membership, SnapshotOptions
from codistill.lab.methods.alone import Alone
from codistill.lab.methods.base import Build, Costs, Place
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.samples import Inputs


class Teachers(Alone):
    """Train ``peers`` models side by side, which learn from nobody, and publish each when it has finished."""

    uses_store: ClassVar[bool] = True
    keeps_store: ClassVar[bool] = True

    def __init__(self, recipe: Recipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._codistiller: Codistiller | None = None

    @override
    def wrap(self, model: nn.Module, build: Build | None = None, *, epoch_steps: int = 1) -> nn.Module:
        recipe, peer = self._recipe, self._place.peer
        exchange = CheckpointExchange(
            self._place.exchange,
            peer=peer,
            # Nobody to learn from: whoever comes later learns from all of them.
            peers=[peer],
            interval_steps=recipe.updates,
            # A run that was killed between its last snapshot and its result goes on under its name.
            membership=Membership(rejoin=True),
            snapshots=SnapshotOptions(
                metadata={"model": recipe.model_of(peer), "width": recipe.width_of(peer)}
            ),
        )
        self._codistiller = Codistiller(model, exchange)
        return super().wrap(model, build, epoch_steps=epoch_steps)

    @override
    def loss(self, logits: Tensor, inputs: Inputs, *, mask: Tensor | None = None) -> Tensor | None:
        # An exact 0, which opens the run in the store.
        self._wrapped().loss(logits, inputs, mask=mask)
        return None

    @override
    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:
        self._wrapped().step(task_loss=task_loss, samples=samples)
        return super().step(task_loss=task_loss, samples=samples)

    @override
    def costs(self) -> Costs:
        return Costs()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "codistiller": self._wrapped().state_dict()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._wrapped().load_state_dict(state["codistiller"])

    @override
    def close(self) -> None:
        self._wrapped().close()

    def _wrapped(self) -> Codistiller:
        assert self._codistiller is not None, "wrap() comes first"
        return self._codistiller

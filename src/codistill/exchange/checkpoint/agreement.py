"""How the ranks of a peer come to do the same at the same step."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, final

from codistill import errors
from codistill.errors import CodistillError
from codistill.parallel.group import PeerRanks

EVERY_STEPS: Final = 10

Result = TypeVar("Result")


@final
class Agreement:
    """Lets ranks that may fail one by one fail together.

    **Ranks**: all of the peer, in the same order.
    **Blocks**: until the other ranks are there.
    **On failure**: an error of one rank is raised on all; with its own class where it is one of
    codistill's.
    """

    def __init__(self, ranks: PeerRanks) -> None:
        self._ranks = ranks

    def is_due(self, step: int) -> bool:
        """Return whether ranks meet after this step; a single one may at any."""
        return self._ranks.size == 1 or step % EVERY_STEPS == 0

    def meet(self, error: BaseException | None, numbers: Sequence[int] = ()) -> list[int]:
        """Raise if any rank has an error, else return the greatest of all ranks' numbers.

        Args:
            error: What went wrong on this rank since the last time.
            numbers: As many on every rank.
        """
        if self._ranks.size == 1:
            if error is not None:
                raise error
            return list(numbers)
        failed, *greatest = self._ranks.maximum([0 if error is None else self._ranks.rank + 1, *numbers])
        if failed:
            self._raise(error, rank=failed - 1)
        return greatest

    def do(self, job: Callable[[], Result]) -> Result:
        """Do a job on all ranks; if it fails on one, raise on all."""
        result, error = None, None
        try:
            result = job()
        except BaseException as caught:  # noqa: BLE001 - raised again by meet
            error = caught
        self.meet(error)
        return result  # type: ignore[return-value]  # an error would have been raised

    def _raise(self, error: BaseException | None, *, rank: int) -> None:
        message = self._ranks.broadcast(None if error is None else _describe(error), source=rank)
        raise error or _error_of(message, rank)


def _describe(error: BaseException) -> bytes:
    said: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, CodistillError):
        said |= {"peer": error.peer, "step": error.step, "key": error.key}
    return json.dumps(said).encode()


def _error_of(message: bytes, rank: int) -> Exception:
    said = json.loads(message)
    kind = getattr(errors, said["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, CodistillError)):
        return RuntimeError(f"Rank {rank} of this peer failed with {said['type']}: {said['message']}")
    error = kind(said["message"], peer=said["peer"], step=said["step"], key=said["key"])
    error.add_note(f"raised on rank {rank} of this peer")
    return error

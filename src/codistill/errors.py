"""The exceptions of codistill, and its warnings.

    CodistillError
    |-- StoreError (OSError)                        a store did not do what was asked
    |   `-- KeyMissingError (FileNotFoundError)     nothing is stored under that key
    |-- SnapshotError (ValueError)                  a snapshot cannot be used
    |   |-- SnapshotFormatError                     not written as the format says, or a newer format
    |   |-- SnapshotIntegrityError                  its bytes are not those its publisher wrote
    |   `-- SnapshotMismatchError                   it is of another model
    |-- RunExistsError (FileExistsError)            a new job would write over an old run
    |-- PeerTakenError (FileExistsError)            another live job has this peer's name
    |-- PeerMissingError (TimeoutError)             a peer that was waited for did not come
    |-- ExchangeTimeout (TimeoutError)              a peer did not take part in a swap of predictions
    |-- PeerMismatchError (ValueError)              peers were started with settings that do not go together
    |-- JobError (RuntimeError)                     a training job that was started has failed
    |-- RecipeError (ValueError)                    a recipe that does not exist or cannot be run
    |-- DataMissingError (FileNotFoundError)        a data set is not where it was looked for
    `-- ExtraMissingError (ImportError)             an optional dependency is not installed

Wrong arguments are ``ValueError`` and ``TypeError``, as everywhere in Python.
"""


class CodistillError(Exception):
    """Base of every error that concerns a run rather than an argument.

    Attributes:
        peer: Name of the peer it is about, where there is one.
        step: Optimizer step it is about, where there is one.
        key: Key in the store it is about, where there is one.
    """

    def __init__(
        self, message: str, *, peer: str | None = None, step: int | None = None, key: str | None = None
    ) -> None:
        super().__init__(message)
        self.peer = peer
        self.step = step
        self.key = key


class StoreError(CodistillError, OSError):
    """A store could not read, write, create, delete or list."""


class KeyMissingError(StoreError, FileNotFoundError):
    """Nothing is stored under the key."""


class SnapshotError(CodistillError, ValueError):
    """A snapshot cannot be used; whatever was loaded before stays as it was."""


class SnapshotFormatError(SnapshotError):
    """A document of a snapshot is malformed, or of a newer format than this version reads."""


class SnapshotIntegrityError(SnapshotError):
    """The bytes are not those that the publisher wrote: truncated, altered, or of another run."""


class SnapshotMismatchError(SnapshotError):
    """The snapshot is of another model: names or shapes differ."""


class RunExistsError(CodistillError, FileExistsError):
    """A job that starts at step 0 found its own earlier snapshots, or a results folder in use."""


class PeerTakenError(CodistillError, FileExistsError):
    """Two live jobs have one name; the later one is refused, or the earlier one has to stop."""


class PeerMissingError(CodistillError, TimeoutError):
    """A peer did not publish in time what this peer has to wait for."""


class ExchangeTimeout(CodistillError, TimeoutError):  # noqa: N818 - an outcome with a name of its own
    """A peer did not take part in a swap of predictions in time, or has ended."""


class PeerMismatchError(CodistillError, ValueError):
    """Peers of one run were started with settings that contradict one another."""


class JobError(CodistillError, RuntimeError):
    """A training job that was started has failed; the message ends with its traceback."""


class RecipeError(CodistillError, ValueError):
    """There is no such recipe, or its fields contradict one another."""


class DataMissingError(CodistillError, FileNotFoundError):
    """A data set is not where it was looked for."""


class ExtraMissingError(CodistillError, ImportError):
    """An optional dependency is not installed; the message names the ``pip install`` that helps."""


class CodistillWarning(UserWarning):
    """Something is not as it should be, but training goes on."""


class AdviceWarning(CodistillWarning):
    """The distillation loss does not help this training; says which setting to change."""

"""The document that makes a folder of a store a run."""

import uuid
from dataclasses import dataclass
from typing import Final

from codistill.snapshots.document import RUN_ID, Fields, refusals, write_document
from codistill.snapshots.keys import RUN_KEY

MAX_RUN_BYTES: Final = 1024

# The claim of an incarnation is that its document exists; there is nothing to say in it.
LIFE_DOCUMENT: Final = write_document({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Which run the snapshots below belong to."""

    run_id: str
    """Hexadecimal; repeated in every document, so that one left by another run is recognised."""

    def to_json(self) -> bytes:
        """Return the document's bytes."""
        return write_document({"run_id": self.run_id})

    @classmethod
    def from_json(cls, data: bytes, *, key: str = RUN_KEY) -> "Run":
        """Parse a document.

        Args:
            data: What was read.
            key: Where it was read, for the message.

        Raises:
            SnapshotFormatError: If a field is not as the format says.
        """
        with refusals("run document", key):
            fields = Fields.of_document(data, max_bytes=MAX_RUN_BYTES)
            return cls(run_id=fields.text("run_id", RUN_ID))


def new_run() -> Run:
    """Return a run with an id that no other run has."""
    return Run(run_id=uuid.uuid4().hex)

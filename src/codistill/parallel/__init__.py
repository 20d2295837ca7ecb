"""What codistill needs to know of torch's parallelism inside a peer: its ranks, and its weights."""

from codistill.parallel.group import PeerRanks
from codistill.parallel.weights import (
    copy_into,
    fragments_to_publish,
    is_sharded,
    materialise,
    named_fragments,
    named_tensors,
    unwrap,
)

__all__ = [
    "PeerRanks",
    "copy_into",
    "fragments_to_publish",
    "is_sharded",
    "materialise",
    "named_fragments",
    "named_tensors",
    "unwrap",
]

"""Categories as numbers that are the same in every process, whatever the other rows hold."""

import zlib

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint32]


def hashes(values: npt.NDArray[np.bytes_], *, column: str) -> Hashes:
    """Return the CRC-32 of ``column=value`` for each value, uint32 [N].

    Not yet taken modulo a number of buckets, so that what is cached fits any. Equal values of two columns
    differ. A missing value is a value like any other.

    Args:
        values: bytes [N].
        column: The column's name.

    Example:
        >>> hashes(np.array([b"red", b"blue", b"red"]), column="colour").tolist()
        [2141624756, 800646230, 2141624756]
    """
    prefix = f"{column}=".encode()
    unique, places = np.unique(values, return_inverse=True)
    of_unique = np.array([zlib.crc32(prefix + value) for value in unique.tolist()], dtype=np.uint32)
    return of_unique[places]


def buckets_of(hashed: Hashes, buckets: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each hash, int64 in [0, buckets).

    Args:
        hashed: Of any shape.
        buckets: Their number, the same for every column, >= 1.
    """
    return (hashed % np.uint32(buckets)).astype(np.int64)

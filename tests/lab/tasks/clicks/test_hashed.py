import zlib

import numpy as np

from codistill.lab.tasks.clicks.hashed import buckets_of, hashes

VALUES = np.array([b"red", b"", b"blue", b"red", b"?"])


def test_hashes_are_these_in_every_process() -> None:
    assert hashes(VALUES, column="colour").tolist() == [
        2141624756,
        zlib.crc32(b"colour="),
        800646230,
        2141624756,
        zlib.crc32(b"colour=?"),
    ]


def test_hashes_do_not_depend_on_the_other_rows() -> None:
    whole = hashes(VALUES, column="colour")
    order = np.array([3, 1, 4, 0, 2])
    assert hashes(VALUES[order], column="colour").tolist() == whole[order].tolist()
    assert hashes(VALUES[:1], column="colour").tolist() == whole[:1].tolist()


def test_the_same_value_of_two_columns_has_two_hashes() -> None:
    assert not np.any(hashes(VALUES, column="colour") == hashes(VALUES, column="hair"))


def test_buckets_are_used_evenly() -> None:
    values = np.array([b"%d" % number for number in range(20_000)])
    buckets = buckets_of(hashes(values, column="diag_1"), 1000)
    assert buckets.dtype == np.int64
    counts = np.bincount(buckets, minlength=1000)
    assert len(counts) == 1000
    # 20 each; a fair draw has a deviation of 4.5.
    assert counts.min() > 0
    assert counts.std() < 7

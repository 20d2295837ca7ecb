import gzip
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from codistill.errors import DataMissingError
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.clicks import criteo
from codistill.lab.tasks.clicks.criteo import Criteo, evenly_spaced, read_rows
from codistill.lab.tasks.clicks.hashed import buckets_of, hashes


def whole(samples):
    inputs, targets = samples.batch(torch.arange(len(samples)))
    return *inputs, targets


def test_the_last_tenths_in_time_validate_and_test(small_criteo: Path) -> None:
    task = Criteo(small_criteo)
    parts = [task.train, task.validation, task.test()]
    assert [len(part) for part in parts] == [160, 20, 20]
    # The first column counts the rows.
    counts = torch.cat([whole(part)[0][:, 0] for part in parts])
    assert bool((counts.diff() > 0).all())
    assert torch.cat([whole(part)[2] for part in parts]).tolist() == [1, 0, 0, 0, 0] * 40


def test_a_batch_is_features_and_buckets(small_criteo: Path) -> None:
    task = Criteo(small_criteo)
    (features, buckets), targets = task.train.batch(torch.tensor([6, 0, 1]))
    assert targets.tolist() == [0, 1, 0]
    assert targets.dtype == buckets.dtype == torch.int64
    assert features.dtype == torch.float32
    # The third number is missing in every third row, which training shows.
    assert features.shape == (3, 14)
    assert features[:, 13].tolist() == [1, 1, 0]
    assert features[:2, 2].tolist() == [0, 0]
    expected = buckets_of(
        hashes(np.array([b"00000006", b"00000000", b"00000001"]), column="C1"), task.buckets
    )
    assert buckets[:, 0].tolist() == expected.tolist()
    expected = buckets_of(hashes(np.array([b"deadbeef", b"deadbeef", b""]), column="C2"), task.buckets)
    assert buckets[:, 1].tolist() == expected.tolist()
    assert task.model(width=8)(features, buckets).shape == (3, 1)


def test_numbers_are_scaled_by_training_rows_alone(small_criteo: Path) -> None:
    task = Criteo(small_criteo)
    features = whole(task.train)[0]
    assert features[:, :2].mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert features[:, :2].std(dim=0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)
    # From -2 to 2, every one a fifth of the time: symmetric on the scale of logarithms too.
    assert features[:5, 1].tolist() == pytest.approx((-features[:5, 1].flip(0)).tolist(), abs=1e-5)


def test_class_frequencies_are_those_of_training(small_criteo: Path) -> None:
    task = Criteo(small_criteo)
    assert task.class_frequencies().tolist() == pytest.approx([0.8, 0.2])
    assert torch.allclose(task.class_frequencies(), Task.class_frequencies(task))


def test_parts_are_the_whole(small_criteo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = list(read_rows(small_criteo / "criteo" / "train.txt"))
    assert len(once) == 1
    task = Criteo(small_criteo)

    monkeypatch.setattr(criteo, "read_blocks", partial(criteo.read_blocks, block_bytes=1000))
    parts = list(read_rows(small_criteo / "criteo" / "train.txt"))
    assert len(parts) > 10
    assert np.concatenate(parts).tobytes() == once[0].tobytes()
    monkeypatch.setattr(criteo, "_CHUNK_ROWS", 7)
    shutil.rmtree(small_criteo / "cache")
    again = Criteo(small_criteo)
    assert torch.allclose(whole(again.train)[0], whole(task.train)[0], atol=1e-5)


def test_a_compressed_file_reads_alike(small_criteo: Path) -> None:
    plain = whole(Criteo(small_criteo).validation)
    path = small_criteo / "criteo" / "train.txt"
    (small_criteo / "criteo" / "train.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    compressed = whole(Criteo(small_criteo).validation)
    assert all(torch.equal(one, other) for one, other in zip(plain, compressed, strict=True))


def test_later_jobs_read_the_cache_alone(small_criteo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Criteo.prepare(small_criteo)
    assert sorted(path.suffix for path in (small_criteo / "cache").iterdir()) == [".npz", ".rows"]
    monkeypatch.setattr(criteo, "read_rows", lambda path: pytest.fail("read again"))
    monkeypatch.setattr(criteo, "_statistics", lambda rows: pytest.fail("counted again"))
    assert len(Criteo(small_criteo).train) == 160


def test_long_parts_are_scored_on_rows_evenly_spaced(
    small_criteo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = next(read_rows(small_criteo / "criteo" / "train.txt"))
    assert evenly_spaced(rows, most=70)["numbers"][:, 0].tolist() == list(range(0, 200, 3))
    assert len(evenly_spaced(rows, most=200)) == 200
    monkeypatch.setattr(criteo, "MOST_VALIDATION", 10)
    monkeypatch.setattr(criteo, "MOST_TEST", 5)
    task = Criteo(small_criteo)
    assert [len(task.train), len(task.validation), len(task.test())] == [160, 10, 5]


def test_another_format_is_refused_by_line(small_criteo: Path) -> None:
    path = small_criteo / "criteo" / "train.txt"
    # The test file of the challenge lacks the label.
    lines = path.read_text().splitlines()
    lines[2] = lines[2].partition("\t")[2]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"Line 3 of .*train\.txt must have 40 fields, got 39"):
        Criteo(small_criteo)
    assert not list((small_criteo / "cache").iterdir())


def test_missing_data_say_where_they_come_from(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataMissingError, match=r"'criteo' is not there: looked for .*train\.txt.* Criteo's"):
        Criteo.prepare(tmp_path)


@pytest.mark.data
def test_the_real_advertisements_are_as_documented(data_root: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "criteo").mkdir()
    source = data_root / "criteo_1tb_head" / "day_0_head1000.tsv.gz"
    shutil.copyfile(source, tmp_path / "criteo" / "train.txt.gz")
    task = Criteo(tmp_path)
    assert [len(part) for part in (task.train, task.validation, task.test())] == [800, 100, 100]
    (rows,) = read_rows(source)
    assert rows["target"].sum() == 21
    cells = [line.split(b"\t") for line in gzip.decompress(source.read_bytes()).splitlines()]
    by_hand = [[float(cell) if cell else np.nan for cell in line[1:14]] for line in cells]
    np.testing.assert_array_equal(rows["numbers"], np.array(by_hand, dtype=np.float32))
    last = np.array([line[39] for line in cells])
    assert rows["hashes"][:, 25].tolist() == hashes(last, column="C26").tolist()
    features, buckets, _ = whole(task.train)
    assert torch.isfinite(features).all()
    assert task.model()(features, buckets).shape == (800, 1)

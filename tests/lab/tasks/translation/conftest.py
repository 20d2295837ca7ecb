import gzip
import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

SUBJECTS = [
    ("Ein Hund", "A dog"),
    ("Eine Frau", "A woman"),
    ("Der Mann", "The man"),
    ("Das M\u00e4dchen", "The girl"),
]
VERBS = [("rennt", "runs"), ("schl\u00e4ft", "sleeps"), ("singt", "sings")]
PLACES = [("im Park", "in the park"), ("am Strand", "on the beach"), ("zu Hause", "at home")]
PAIRS = [
    (f"{subject[0]} {verb[0]} {place[0]}.", f"{subject[1]} {verb[1]} {place[1]}.")
    for subject, verb, place in itertools.product(SUBJECTS, VERBS, PLACES)
]
"""36 made-up pairs, German and English."""


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("codistill.lab.tasks.cache.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def small_multi30k(tmp_path: Path, cache: Path) -> Path:
    """A data root with 24 pairs to train on, 6 to validate and 6 to test."""
    parts = {"train": PAIRS[:24], "val": PAIRS[24:30], "test_2016_flickr": PAIRS[30:]}
    for part, pairs in parts.items():
        for language, sentences in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
            write_lines(tmp_path / "multi30k" / f"{part}.{language}.gz", sentences)
    return tmp_path


@pytest.fixture
def small_tatoeba(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with 36 pairs and 12 more translations of some sentences; 4 to validate, 4 to test."""
    monkeypatch.setattr("codistill.lab.tasks.translation.tatoeba.HELD_SENTENCES", 4)
    others = [(f"{german[:-1]}!", english) for german, english in PAIRS[:6]]
    others += [(german, f"{english[:-1]}!") for german, english in PAIRS[-6:]]
    lines = [f"{english}\t{german}\n" for german, english in PAIRS + others]
    path = tmp_path / "tatoeba_deu_eng" / "deu-eng.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("deu.txt", "".join(lines))
        members.writestr("_about.txt", "made up")
    return tmp_path


@pytest.fixture
def small_parallel(tmp_path: Path, cache: Path) -> Path:
    """A data root with wmt16 and iwslt14, of the same made-up pairs."""
    parts = {"train": PAIRS[:24], "valid": PAIRS[24:30], "test": PAIRS[30:]}
    for name, (part, pairs) in itertools.product(("wmt16", "iwslt14"), parts.items()):
        for language, sentences in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
            write_lines(tmp_path / name / f"{part}.{language}", sentences)
    return tmp_path

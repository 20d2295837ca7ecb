import sys
from pathlib import Path

import pytest
import torch

from codistill.errors import DataMissingError, ExtraMissingError, RecipeError
from codistill.lab.tasks.language import text_folder
from codistill.lab.tasks.language.text_folder import TextFolder
from codistill.lab.tasks.language.token_file import TokenFile


def text_of(task: TextFolder, samples) -> str:
    inputs, _ = samples.batch(torch.arange(len(samples)))
    return task.vocabulary.decode(inputs.flatten().numpy())


def test_files_are_joined_in_order_of_their_names(small_text_folder: Path) -> None:
    task = TextFolder(small_text_folder)
    assert isinstance(task.train, TokenFile)
    read = text_of(task, task.train)
    first = (small_text_folder / "text_folder" / "train" / "a.txt").read_bytes().decode()
    assert read.startswith(first + "# second\r\n")
    inputs, targets = task.train.batch(torch.tensor([0, 1]))
    assert inputs.shape == targets.shape == (2, 128)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert task.classes == 24_006


def test_validation_and_test_come_from_their_own_folders(
    small_text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TextFolder(small_text_folder)
    for part, samples in (("valid", task.validation), ("test", task.test())):
        whole = (small_text_folder / "text_folder" / part / "a.txt").read_bytes().decode()
        assert whole.startswith(text_of(task, samples))
    monkeypatch.setattr(text_folder, "VALIDATION_WINDOWS", 2)
    monkeypatch.setattr(text_folder, "TEST_WINDOWS", 1)
    assert len(TextFolder(small_text_folder).validation) == 2
    assert len(task.test()) == 1


def test_prepared_text_is_not_read_again(
    small_text_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TextFolder.prepare(small_text_folder)
    suffixes = sorted(path.suffix for path in cache.iterdir())
    assert suffixes == [".npz", ".tokens", ".tokens", ".tokens"]
    monkeypatch.setattr(text_folder, "read_lines", lambda path: pytest.fail("read again"))
    assert len(TextFolder(small_text_folder).test()) >= 1


def test_changed_files_are_cut_anew(small_text_folder: Path) -> None:
    before = TextFolder(small_text_folder)
    path = small_text_folder / "text_folder" / "valid" / "a.txt"
    path.write_text("Another beginning. " + path.read_text())
    after = TextFolder(small_text_folder)
    assert text_of(after, after.validation).startswith("Another beginning. ")
    assert after.vocabulary.to_json() == before.vocabulary.to_json()
    assert text_of(after, after.train) == text_of(before, before.train)


def test_pieces_are_learned_from_the_beginning_of_the_training_files(
    small_text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    lines_of = text_folder.read_lines

    def read_lines(path):
        for line in lines_of(path):
            read.append((path.name, len(line)))
            yield line

    monkeypatch.setattr(text_folder, "read_lines", read_lines)
    monkeypatch.setattr(text_folder, "write_tokens", lambda path, parts: path.write_bytes(bytes(1000)))
    monkeypatch.setattr(text_folder, "SAMPLE_CHARACTERS", 500)
    TextFolder.prepare(small_text_folder)
    assert {name for name, _ in read} == {"a.txt"}
    assert 500 <= sum(length for _, length in read) < 600


@pytest.mark.parametrize(
    ("name", "parameters"), [("lstm_2x1024", 41_399_750), ("transformer_124m", 124_854_528)]
)
def test_models_have_the_documented_size(small_text_folder: Path, name: str, parameters: int) -> None:
    task = TextFolder(small_text_folder)
    with torch.device("meta"):
        model = task.model(name)
        logits = model(torch.zeros(2, 128, dtype=torch.int64))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert logits.shape == (2, 128, 24_006)


def test_models_take_another_width(small_text_folder: Path) -> None:
    task = TextFolder(small_text_folder)
    with torch.device("meta"):
        assert type(task.model()) is type(task.model("lstm_2x1024"))
        assert task.model(width=32).embedding.embedding_dim == 32
        assert task.model("transformer_124m", width=128).blocks[0].heads == 2
        with pytest.raises(RecipeError, match="width must be a multiple of 64 for a transformer, got 100"):
            task.model("transformer_124m", width=100)


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_folder_without_text_is_named(small_text_folder: Path, part: str) -> None:
    folder = small_text_folder / "text_folder" / part
    for path in folder.iterdir():
        path.rename(path.with_name("notes.md"))
    message = rf"looked for \*\.txt and \*\.txt\.gz in {folder}, which are files of your own"
    with pytest.raises(DataMissingError, match=message):
        TextFolder.prepare(small_text_folder)


def test_tokenizers_is_asked_for_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExtraMissingError, match=r"tokenizers must be installed .* 'codistill\[lab\]'"):
        TextFolder.prepare(tmp_path)

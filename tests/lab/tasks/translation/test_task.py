import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from codistill.errors import DataMissingError, ExtraMissingError, RecipeError
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.samples import IGNORED, Samples, Subset
from codistill.lab.tasks.translation.multi30k import Multi30k
from codistill.lab.tasks.translation.task import Translation, read_pairs
from codistill.lab.tasks.translation.tatoeba import Tatoeba
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, PAD
from codistill.lab.tasks.translation.wmt16 import Wmt16

CPU = torch.device("cpu")


class Parrot(nn.Module):
    """A model that knows the translation of every sample, or that of the sample after it."""

    def __init__(self, samples: Samples, *, classes: int, shift: int = 0) -> None:
        super().__init__()
        self._classes = classes
        (source, _), targets = samples.batch(torch.arange(len(samples)))
        known = [tuple(token for token in row if token != PAD) for row in source.tolist()]
        self._known = dict(zip(known, targets.roll(shift, 0).tolist(), strict=True))

    def encode(self, source: Tensor) -> Tensor:
        return source

    def next_scores(self, memory: Tensor, source: Tensor, prefix: Tensor) -> Tensor:
        scores = torch.zeros(len(prefix), self._classes)
        for row, sentence, begun in zip(scores, source.tolist(), prefix.tolist(), strict=True):
            target = self._known[tuple(token for token in sentence if token != PAD)]
            expected = [BOS, *(token for token in target if token >= 0)]
            goes_well = begun == expected[: len(begun)] and len(begun) < len(expected)
            row[expected[len(begun)] if goes_well else EOS] = 20.0
        return scores


def test_a_model_that_knows_the_references_scores_a_bleu_of_100(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    for samples in (task.validation, Subset(whole=task.test(), rows=torch.tensor([4, 1, 2]))):
        model = Parrot(samples, classes=task.classes).eval()
        assert task.further_scores(model, samples, device=CPU) == {"bleu": pytest.approx(100.0)}
    model = Parrot(task.train, classes=task.classes, shift=1).eval()
    assert task.further_scores(model, task.train, device=CPU)["bleu"] < 90.0


def test_bleu_is_that_of_the_first_sentences(small_multi30k: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codistill.lab.tasks.translation.task.BLEU_SENTENCES", 2)
    task = Multi30k(small_multi30k)
    first = Subset(whole=task.validation, rows=torch.arange(2))
    # Any other sentence is unknown to it, and a KeyError.
    model = Parrot(first, classes=task.classes).eval()
    assert task.further_scores(model, task.validation, device=CPU)["bleu"] == pytest.approx(100.0)


def test_the_bleu_of_a_new_model_is_a_number(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    torch.manual_seed(0)
    bleu = task.further_scores(task.model(width=8).eval(), task.validation, device=CPU)["bleu"]
    assert 0.0 <= bleu < 20.0


def test_logits_and_targets_fit_the_loss(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    torch.manual_seed(0)
    model = task.model(width=8)
    inputs, targets = task.train.batch(torch.arange(5))
    logits = model(*task.training_inputs(inputs, torch.Generator()))
    assert logits.shape == (*targets.shape, task.classes)
    loss = task.loss(logits, targets)
    loss.backward()
    mask = task.mask(targets)
    assert mask is not None
    by_hand = -task.log_probabilities(logits)[mask].gather(1, targets[mask][:, None]).mean()
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()))
    assert float(task.class_frequencies().sum()) == pytest.approx(1.0)
    assert task.class_frequencies()[[PAD, BOS]].tolist() == [0.0, 0.0]


def test_the_loss_is_the_usual_one_with_smoothing_too(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    _, targets = task.train.batch(torch.arange(6))
    generator = torch.Generator().manual_seed(0)
    prior = task.class_frequencies()
    for smoothing, spread in ((0.0, None), (0.1, None), (0.1, prior)):
        logits = torch.randn(*targets.shape, task.classes, generator=generator, requires_grad=True)
        losses = [
            loss(logits, targets, smoothing=smoothing, prior=spread)
            for loss in (task.loss, partial(Task.loss, task))
        ]
        torch.testing.assert_close(*losses)
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
        torch.testing.assert_close(*gradients)
        assert not gradients[0][targets == IGNORED].any()


def test_text_is_tokenised_once(small_multi30k: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Multi30k.prepare(small_multi30k)
    parts = sorted(path.name.split("-")[1] for path in cache.iterdir())
    assert parts == ["test", "train", "validation", "vocabulary"]
    monkeypatch.setattr(Multi30k, "read", lambda *_: pytest.fail("read again"))
    task = Multi30k(small_multi30k)
    assert len(task.train) == 24
    assert len(task.test()) == 6


def test_other_text_or_settings_get_tokens_of_their_own(
    small_multi30k: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Multi30k(small_multi30k)
    for language in ("de", "en"):
        test = small_multi30k / "multi30k" / f"test_2016_flickr.{language}.gz"
        test.write_bytes((test.parent / f"val.{language}.gz").read_bytes())
    assert torch.equal(before.test().sources.tokens, before.validation.sources.tokens)
    monkeypatch.setattr(Multi30k, "most_classes", 280)
    assert Multi30k(small_multi30k).classes == 280 < before.classes
    monkeypatch.setattr(Multi30k, "longest", 5)
    inputs, targets = Multi30k(small_multi30k).validation.batch(torch.arange(6))
    assert inputs[0].shape == targets.shape == (6, 5)


def test_without_a_writable_cache_the_tokens_are_the_same(small_multi30k: Path, cache: Path) -> None:
    expected = Multi30k(small_multi30k).train
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    cache.write_text("a file in the way")
    assert torch.equal(Multi30k(small_multi30k).train.targets.tokens, expected.targets.tokens)


@pytest.mark.parametrize("task", [Multi30k, Tatoeba, Wmt16])
def test_missing_data_are_reported_with_place_and_origin(task: type[Translation], tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as caught:
        task.prepare(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"The data set {task.name!r} is not there: looked for {tmp_path / task.name}")
    assert f"which comes from {task.origin}" in message
    assert message.endswith(".")
    assert "--data-root, or set CODISTILL_DATA" in message


def test_a_missing_test_part_is_found_out_before_training(small_multi30k: Path) -> None:
    (small_multi30k / "multi30k" / "test_2016_flickr.en.gz").unlink()
    with pytest.raises(DataMissingError, match=r"test_2016_flickr\.en\.gz"):
        Multi30k.prepare(small_multi30k)


@pytest.mark.parametrize("package", ["tokenizers", "sacrebleu"])
def test_packages_are_asked_for_before_anything_else(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraMissingError, match=rf"{package} must be installed .* 'codistill\[lab\]'"):
        Multi30k.prepare(tmp_path)


def test_models_have_the_width_that_is_asked_for(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    assert task.model(width=12).embedding.weight.shape == (task.classes, 12)
    assert task.model("small").embedding.weight.shape[1] == task.model().embedding.weight.shape[1]
    with pytest.raises(RecipeError, match=r"model must be one of small, got 'base'\."):
        task.model("base")
    with pytest.raises(RecipeError, match=r"width must be even and a multiple of 4, .* got 10\."):
        task.model(width=10)


def test_lines_are_cut_at_line_ends_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "a.de", tmp_path / "a.en"
    first.write_bytes("eins \u2028 zwei\r\n\ndrei".encode())
    second.write_bytes(b"one\x0b two\n\n three\n")
    assert read_pairs(first, second) == (["eins \u2028 zwei", "", "drei"], ["one\x0b two", "", "three"])


def test_a_file_with_lines_too_many_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a.de", tmp_path / "a.en"
    first.write_bytes(b"eins\nzwei\n")
    second.write_bytes(b"one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"a\.en must have a line for each of the 2 lines of a\.de, got 3\."):
        read_pairs(first, second)

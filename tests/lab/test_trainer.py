from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from codistill.data import PartitionedSampler
from codistill.errors import RunExistsError
from codistill.lab import checkpoint, results
from codistill.lab.kept_scores import KeptScores
from codistill.lab.methods.base import Place
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult
from codistill.lab.tasks.images.digits import Digits
from codistill.lab.tasks.samples import Split
from codistill.lab.trainer import Trainer


@pytest.fixture(scope="module")
def task() -> Digits:
    return Digits(Path())


@pytest.fixture
def alone(tiny: Recipe) -> Recipe:
    return replace(tiny, method="alone", learning_rate_drops=(0.5, 0.75), weight_decay_factor=0.5)


def train(
    recipe: Recipe, folder: Path, task: Digits, *, peer: str = "a", read_test: bool = True
) -> PeerResult:
    trainer = Trainer(
        recipe,
        task=task,
        place=Place(peer=peer, exchange=folder / "exchange"),
        folder=folder / peer,
        device=torch.device("cpu"),
    )
    result = trainer.train(read_test=read_test)
    assert result is not None
    return result


def timeless(result: PeerResult) -> PeerResult:
    """Return a result without what depends on the machine."""
    return replace(result, seconds=0.0, stall_s=0.0, peak_memory_bytes=None)


def test_the_loop_is_the_one_a_user_would_write(alone: Recipe, task: Digits, tmp_path: Path) -> None:
    result = train(replace(alone, seed=5), tmp_path, task, peer="b")

    torch.manual_seed(5 * 26 + 1)
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    sampler = PartitionedSampler(718, peer="b", peers=["a", "b"], regime="all_data", seed=5)
    rows = list(sampler)[: 40 * 8]
    for step in range(40):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** ((step >= 20) + (step >= 30))
            group["weight_decay"] = 1e-3 * 0.5 ** ((step >= 20) + (step >= 30))
        batch = rows[8 * step : 8 * step + 8]
        loss = F.cross_entropy(model(task.train.inputs[batch]), task.train.targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        expected = F.log_softmax(model(task.test().inputs), dim=1)
    kept = KeptScores.load(tmp_path / "b")
    # They are made a batch at a time.
    torch.testing.assert_close(torch.from_numpy(kept.whole), expected)
    assert kept.targets.tolist() == task.test().targets.tolist()
    assert result.test_accuracy == float((expected.argmax(1) == task.test().targets).double().mean())


def test_metrics_have_a_row_an_evaluation_and_one_at_the_end(
    alone: Recipe, task: Digits, tmp_path: Path
) -> None:
    result = train(replace(alone, updates=35), tmp_path, task)
    rows = results.load_evaluations(tmp_path / "a" / "metrics.jsonl")
    assert [row.step for row in rows] == [10, 20, 30, 35]
    assert [row.samples for row in rows] == [80, 160, 240, 280]
    assert [row.learning_rate for row in rows] == pytest.approx([0.1, 0.01, 0.001, 0.001])
    assert rows[0].train_loss > rows[-1].train_loss
    assert 0 < rows[0].distance < rows[1].distance
    assert all(row.distillation_loss is None and row.teacher_share is None for row in rows)
    assert rows[-1].validation_nll == result.validation_nll
    assert rows[-1].distance == result.distance


def test_the_result_says_what_it_cost(alone: Recipe, task: Digits, tmp_path: Path) -> None:
    result = train(alone, tmp_path, task)
    assert (result.arm, result.peer, result.seed) == ("alone", "a", 3)
    assert (result.updates, result.samples, result.parameters) == (40, 320, 26122)
    assert result.seconds > 0
    assert (result.bytes_published, result.bytes_fetched, result.bytes_all_reduced) == (0, 0, 0)
    assert result.teacher_share is None
    assert results.load_result(tmp_path / "a" / "result.json") == result


def test_a_search_never_reads_the_test_set(
    alone: Recipe, task: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "test", lambda self: pytest.fail("the test set was read"))
    result = train(alone, tmp_path, task, read_test=False)
    assert result.test_accuracy is None
    assert result.test_nll is None
    assert not (tmp_path / "a" / "test_scores.npy").exists()
    assert not (tmp_path / "a" / "test_targets.npy").exists()


def test_the_test_set_is_read_once_and_last(
    alone: Recipe, task: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_at_reading = []
    read = Digits.test

    def reading(self: Digits) -> Split:
        rows_at_reading.append(len(results.load_evaluations(tmp_path / "a" / "metrics.jsonl")))
        return read(self)

    monkeypatch.setattr(Digits, "test", reading)
    train(alone, tmp_path, task)
    assert rows_at_reading == [4]


def test_peers_and_seeds_start_apart(alone: Recipe, task: Digits, tmp_path: Path) -> None:
    nlls = {
        train(replace(alone, seed=seed), tmp_path / str(seed), task, peer=peer).validation_nll
        for seed in (0, 1)
        for peer in ("a", "b")
    }
    assert len(nlls) == 4


def test_training_twice_gives_the_same_bits(alone: Recipe, task: Digits, tmp_path: Path) -> None:
    first, second = (train(alone, tmp_path / name, task) for name in ("x", "y"))
    assert timeless(first) == timeless(second)


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(
    alone: Recipe,
    task: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bits_of: Callable[[Path], list[object]],
) -> None:
    recipe = replace(alone, checkpoint_every=15, evaluate_every=10)
    whole = train(recipe, tmp_path / "whole", task)
    save = checkpoint.save

    def save_and_fail(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["step"] == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_fail)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", task)
    monkeypatch.undo()
    # What was written after the checkpoint, before the end, is made anew.
    late = results.load_evaluations(tmp_path / "whole" / "a" / "metrics.jsonl")[-1]
    results.append_evaluation(tmp_path / "cut" / "a" / "metrics.jsonl", late)
    resumed = train(recipe, tmp_path / "cut", task)
    assert timeless(resumed) == timeless(whole)
    assert bits_of(tmp_path / "cut" / "a") == bits_of(tmp_path / "whole" / "a")


def test_label_smoothing_changes_the_loss_that_is_trained_on(
    alone: Recipe, task: Digits, tmp_path: Path
) -> None:
    plain = train(alone, tmp_path / "plain", task)
    smooth = train(replace(alone, label_smoothing=0.1), tmp_path / "smooth", task)
    assert plain.validation_nll != smooth.validation_nll
    first_rows = [
        results.load_evaluations(tmp_path / name / "a" / "metrics.jsonl")[0] for name in ("plain", "smooth")
    ]
    assert first_rows[1].train_loss != first_rows[0].train_loss


def test_one_peer_of_two_parts_trains_on_the_first_half(alone: Recipe, task: Digits, tmp_path: Path) -> None:
    half = replace(alone, regime="disjoint", parts=2, peers=1, batch_size=8)
    both = replace(alone, regime="disjoint", peers=2)
    one = train(half, tmp_path / "one", task)
    first_of_two = train(both, tmp_path / "two", task)
    assert one.validation_nll == first_of_two.validation_nll


def test_a_checkpoint_of_an_older_version_is_refused(alone: Recipe, task: Digits, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    checkpoint.save(tmp_path / "a" / "checkpoint.pt", {"step": 3, "model": {}})
    with pytest.raises(RunExistsError, match=r"checkpoint\.pt must be of this version of codistill"):
        train(alone, tmp_path, task)

from pathlib import Path

import numpy as np
import pytest
import torch

from codistill.lab.evaluation import Scores
from codistill.lab.kept_scores import KeptScores, ensemble

TARGETS = np.array([0, 1, 1])


def kept(ones: list[float], targets: np.ndarray = TARGETS) -> KeptScores:
    """Return what a model keeps whose probabilities of class 1 are given."""
    probabilities = np.array(ones)
    return KeptScores.of_whole(
        np.log(np.stack([1 - probabilities, probabilities], 1)).astype(np.float32), targets
    )


def without_whole(scores: KeptScores) -> KeptScores:
    return KeptScores(targets=scores.targets, labels=scores.labels, of_targets=scores.of_targets, whole=None)


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, *, is_whole: bool) -> None:
    scores = kept([0.2, 0.9, 0.4]) if is_whole else without_whole(kept([0.2, 0.9, 0.4]))
    scores.save(tmp_path)
    again = KeptScores.load(tmp_path)
    assert again is not None
    assert again.targets.tolist() == [0, 1, 1]
    assert again.labels.tolist() == [0, 1, 0]
    assert np.exp(again.of_targets).tolist() == pytest.approx([0.8, 0.9, 0.4])
    assert (again.whole is not None) == is_whole
    assert again.accuracy == pytest.approx(2 / 3)
    assert again.nll == pytest.approx(-np.log([0.8, 0.9, 0.4]).mean())


def test_a_folder_without_scores_has_none(tmp_path: Path) -> None:
    assert KeptScores.load(tmp_path) is None


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    kept([0.2, 0.9, 0.4]).save(tmp_path)
    np.save(tmp_path / "test_scores.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold float32 of 2 dimensions, got float64 \[3\]"):
        KeptScores.load(tmp_path)


@pytest.mark.parametrize("is_whole", [True, False])
def test_an_ensemble_has_the_mean_probabilities(*, is_whole: bool) -> None:
    members = [kept([0.2, 0.9, 0.4]), kept([0.9, 0.9, 0.8])]
    joint = ensemble(members if is_whole else list(map(without_whole, members)))
    assert joint is not None
    assert joint.nll == pytest.approx(-np.log([0.45, 0.9, 0.6]).mean(), abs=1e-6)
    assert joint.labels.tolist() == ([1, 1, 1] if is_whole else [-1, -1, -1])


def test_models_that_were_scored_on_other_answers_are_no_ensemble() -> None:
    assert ensemble([kept([0.2, 0.9, 0.4]), kept([0.2, 0.9, 0.4], np.array([1, 1, 1]))]) is None


def test_scores_are_kept_as_they_are() -> None:
    scores = Scores(
        accuracy=1.0,
        nll=0.5,
        targets=torch.tensor([1]),
        labels=torch.tensor([1]),
        confidences=torch.tensor([0.5]),
        target_log_probabilities=torch.tensor([-0.5]),
        log_probabilities=None,
    )
    assert KeptScores.of(scores).of_targets.tolist() == [-0.5]

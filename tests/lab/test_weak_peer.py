import json
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.lab import folder, recipe, results, search, weak_peer
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult
from codistill.lab.search import Point
from codistill.lab.search_space import SearchSpace

RESULTS = Path(__file__).parents[2] / "docs" / "results"
COMMITTED = [("digits", "weak_peer.json"), ("digits_clean", "weak_peer_clean.json")]


def result(arm: Recipe, seed: int, peer: str, accuracy: float, **changes: object) -> PeerResult:
    """Return what a peer leaves; nothing was trained."""
    made = PeerResult(
        arm=arm.label,
        peer=peer,
        seed=seed,
        updates=100,
        samples=3200,
        parameters=10,
        validation_accuracy=0.5,
        validation_nll=1.0,
        test_accuracy=accuracy,
        test_nll=1.0,
        distance=1.0,
        seconds=1.0,
        stall_s=0.0,
        bytes_published=0,
        bytes_fetched=0,
        bytes_all_reduced=0,
        teacher_share=None,
        teacher_samples=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def pretend_to_train(runs: RunFolder) -> None:
    # Beside the first weak peer the strong one loses 1, 2, 3 points; beside all others it gains as much.
    for arm in runs.arms:
        for seed in runs.seeds:
            change = 0.0 if arm.label == "alone" else -0.01 if arm.label == "slow_10" else 0.01
            for peer in ("a", "b")[: arm.peers]:
                path = runs.peer_path(arm.label, seed, peer)
                path.mkdir(parents=True, exist_ok=True)
                accuracy = 0.9 + change * (seed + 1) if peer == "a" else 0.25
                met = {} if arm.peers == 1 else {"teacher_share": 0.3, "first_quarantine": 30}
                results.save_result(path / results.RESULT, result(arm, seed, peer, accuracy, **met))


def test_the_strong_peer_is_the_same_in_every_arm() -> None:
    arms = weak_peer.arms(weak_peer.strong_alone())
    assert [arm.label for arm in arms[:3]] == ["alone", "smoothed", "strong"]
    assert len({arm.label for arm in arms}) == len(arms)
    for arm in arms:
        assert arm.batch_size // arm.peers == 32
        assert arm.learning_rate_of("a") == arms[0].learning_rate
        assert arm.width_of("a") in (None, 128)
        assert arm.weight_decay == arms[0].weight_decay
        assert (arm.method == "codistillation") == (arm.peers == 2)
        assert not arm.lockstep
    for weak in arms[3:]:
        other = (weak.learning_rate_of("b"), weak.width_of("b"))
        assert other != (weak.learning_rate, weak.width_of("a"))


def test_the_document_pairs_seeds_and_says_what_became_of_the_weak_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weak_peer, "train_demo", pretend_to_train)
    weak_peer.main(["--out", str(tmp_path / "out"), "--seeds", "0", "1", "2"])
    document = json.loads((tmp_path / "out" / weak_peer.DOCUMENT).read_text())
    assert document["rule"] == weak_peer.RULE
    arms = {arm["arm"]: arm for arm in document["arms"]}
    assert "search" not in document
    assert {arm["recipe"]["task"] for arm in arms.values()} == {"digits"}
    assert list(arms) == [arm.label for arm in weak_peer.arms(weak_peer.strong_alone())]
    assert "against_alone" not in arms["alone"]
    against = arms["slow_10"]["against_alone"]
    assert against["differences"] == pytest.approx([-0.01, -0.02, -0.03])
    # 4.303 is the 97.5% quantile of Student's t with 2 degrees of freedom.
    assert against["low"] == pytest.approx(-0.02 - 4.303 * 0.01 / 3**0.5, abs=1e-5)
    assert against["outcome"] == "no difference at 95%"
    run = arms["slow_10"]["runs"][1]
    assert (run["seed"], run["test_accuracy"], run["other_test_accuracy"]) == (1, pytest.approx(0.88), 0.25)
    assert (run["taught_updates"], run["updates"], run["first_quarantine"]) == (30, 100, 30)
    assert "slow_10: 88.0%, -2.00 points" in capsys.readouterr().out
    assert folder.RunFolder(tmp_path / "out").seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([-0.02, -0.021, -0.022], "drags it down"),
        ([0.02, 0.021, 0.022], "helps"),
        ([-0.02, 0.02, 0.0], "no difference at 95%"),
        ([-0.02], "too few seeds"),
    ],
)
def test_only_an_interval_on_one_side_of_0_is_an_effect(differences: list[float], outcome: str) -> None:
    assert weak_peer._against(differences)["outcome"] == outcome


def test_on_another_task_the_strong_peer_is_tuned_for_training_alone_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend_to_search(arm: Recipe, space: SearchSpace, *, out: Path) -> list[Point]:
        assert (arm.task, arm.method, arm.peers, arm.batch_size) == ("digits_clean", "alone", 1, 32)
        assert not set(space.seeds) & set(weak_peer.SEEDS)
        # A folder with anything else in it cannot become a results folder.
        assert out.parent == tmp_path
        assert out != tmp_path / "out"
        return [
            point(learning_rate=0.1, weight_decay=1e-4, validation_accuracy=0.97),
            point(learning_rate=0.03, weight_decay=1e-3, validation_accuracy=0.98),
        ]

    monkeypatch.setattr(search, "search", pretend_to_search)
    monkeypatch.setattr(weak_peer, "train_demo", pretend_to_train)
    weak_peer.main(["--task", "digits_clean", "--out", str(tmp_path / "out"), "--seeds", "0", "1"])
    document = json.loads((tmp_path / "out" / weak_peer.DOCUMENT).read_text())
    assert document["search"]["chosen"]["validation_accuracy"] == 0.98
    assert len(document["search"]["points"]) == 2
    for arm in document["arms"]:
        made = recipe.from_document(arm["recipe"], where="")
        assert (made.task, made.learning_rate_of("a"), made.weight_decay) == ("digits_clean", 0.03, 1e-3)


def point(*, learning_rate: float, weight_decay: float, validation_accuracy: float) -> Point:
    return Point(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validation_accuracy=validation_accuracy,
        validation_accuracy_sd=0.01,
        validation_nll=0.1,
        validation_nll_sd=0.01,
    )


@pytest.mark.parametrize(("task", "name"), COMMITTED)
def test_the_committed_results_are_of_these_arms_seeds_and_rule(task: str, name: str) -> None:
    document = json.loads((RESULTS / name).read_text())
    assert document["rule"] == weak_peer.RULE
    assert document["seeds"] == list(weak_peer.SEEDS)
    alone = replace(weak_peer.strong_alone(), task=task)
    if "search" in document:
        chosen = search.choose([Point(**point) for point in document["search"]["points"]])
        alone = replace(alone, learning_rate=chosen.learning_rate, weight_decay=chosen.weight_decay)
    shown = {arm["arm"]: recipe.from_document(arm["recipe"], where=name) for arm in document["arms"]}
    assert shown == {arm.label: arm for arm in weak_peer.arms(alone)}


def test_the_committed_search_covered_the_whole_grid_with_seeds_of_its_own() -> None:
    searched = json.loads((RESULTS / "weak_peer_clean.json").read_text())["search"]
    assert {(point["learning_rate"], point["weight_decay"]) for point in searched["points"]} == {
        (learning_rate, weight_decay)
        for learning_rate in weak_peer.LEARNING_RATES
        for weight_decay in weak_peer.WEIGHT_DECAYS
    }
    assert not set(searched["seeds"]) & set(weak_peer.SEEDS)

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn  # noqa: F401 - its first import sets environment variables, which no test may

from codistill.lab import claims, folder, methods, results, tasks
from codistill.lab.claims import Claim
from codistill.lab.kept_scores import KeptScores
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.report import page, write_report
from codistill.lab.results import Evaluation, PeerResult

SEEDS = (0, 1, 2, 3, 4)
LEVELS = {"half_alone": 0.92, "codistillation_halves": 0.943}


ARMS = [
    replace(arm, learning_rate=0.1, weight_decay=1e-2 if "reduce" in arm.label else 3e-3) for arm in demo.ARMS
]
GRID = {
    "rule": "highest validation accuracy",
    "seeds": [100, 101],
    "arms": [
        {
            "arm": arm.label,
            "chosen": {"learning_rate": arm.learning_rate, "weight_decay": arm.weight_decay},
            "at_edge": ["learning_rate"] if arm.label == "alone_2" else [],
            "points": [
                {"learning_rate": rate, "weight_decay": decay}
                for rate in (0.1, 0.03)
                for decay in (1e-2, 3e-3)
            ],
        }
        for arm in ARMS
        if arm.label not in demo.SETTINGS_OF
    ],
}


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up results of all arms of the demo: nothing was trained; not to be changed."""
    return fabricate(tmp_path_factory.mktemp("demo") / "results")


@pytest.fixture
def results_folder(tmp_path: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these results."""
    monkeypatch.setattr(demo, "grid", lambda: GRID)
    return Path(shutil.copytree(demo_folder, tmp_path / "results"))


@pytest.fixture(scope="session")
def reported_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up results of an experiment on clicks with its report; not to be changed."""
    path = fabricate_experiment(tmp_path_factory.mktemp("experiment") / "results")
    write_report(path)
    return path


@pytest.fixture
def experiment_folder(tmp_path: Path, reported_experiment: Path) -> Path:
    """A copy of these results."""
    return Path(shutil.copytree(reported_experiment, tmp_path / "experiment"))


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take longest by far."""
    monkeypatch.setattr(page, "make_figures", lambda run, comparison: {})


def fabricate(path: Path) -> Path:
    arms = ARMS
    command = ["codistill", "demo", "--out", "runs/a <b> & c"]
    run = folder.create(path, arms=arms, seeds=SEEDS, command=command)
    random = np.random.default_rng(0)
    targets = tasks.load("digits", data_root=path).test().targets.numpy()
    for arm in arms:
        names = ["a"] if arm.method == "all_reduce" else [chr(97 + index) for index in range(arm.peers)]
        level = LEVELS.get(arm.label, 0.953)
        for seed in SEEDS:
            for peer in names:
                path = run.peer_path(arm.label, seed, peer)
                path.mkdir(parents=True)
                results.save_evaluations(
                    path / results.METRICS, [_evaluation(step, level, random) for step in range(50, 1501, 50)]
                )
                scores = _scores(targets, level + random.normal(0, 0.003), random)
                KeptScores.of_whole(scores, targets).save(path)
                right = float(np.mean(scores.argmax(axis=1) == targets))
                results.save_result(path / results.RESULT, _result(arm, seed, peer, right, random))
    return run.path


def _scores(targets, accuracy, random):
    wrong = random.random(len(targets)) > accuracy
    labels = np.where(wrong, (targets + random.integers(1, 10, len(targets))) % 10, targets)
    logits = random.normal(0, 0.5, (len(targets), 10))
    logits[np.arange(len(targets)), labels] += 5
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def _evaluation(step, level, random):
    phase = 1.0 if step < 750 else 0.4 if step < 1125 else 0.15
    return Evaluation(
        step=step,
        samples=64 * step,
        train_loss=0.9 + 1.2 * math.exp(-step / 150) + 0.15 * phase + random.normal(0, 0.02 * phase),
        distillation_loss=None,
        validation_accuracy=level - 0.17 - 0.4 * math.exp(-step / 90) - random.normal(0.02, 0.01) * phase,
        validation_nll=1.0,
        distance=5.0,
        learning_rate=0.1,
        weight_decay=1e-2,
        teacher_share=None,
    )


def _result(arm, seed, peer, right, random):
    taught = arm.method == "codistillation"
    bytes_a_snapshot = 104_000 * 150
    return PeerResult(
        arm=arm.label,
        peer=peer,
        seed=seed,
        updates=1500,
        samples=1500 * arm.batch_size // (arm.peers if arm.method != "all_reduce" else 1),
        parameters=26_122,
        validation_accuracy=0.78,
        validation_nll=1.0,
        test_accuracy=right,
        test_nll=0.3 + random.normal(0, 0.01),
        distance=random.normal(12, 0.2),
        seconds=random.normal(2, 0.1),
        stall_s=0.1 if taught else 0.0,
        bytes_published=bytes_a_snapshot if taught else 0,
        bytes_fetched=bytes_a_snapshot * (arm.peers - 1) if taught else 0,
        bytes_all_reduced=1500 * 104_000 if arm.method == "all_reduce" else 0,
        teacher_share=(0.3 if arm.label == "codistillation_4" else 1.0) if taught else None,
        teacher_samples=1500 * arm.batch_size // arm.peers * (arm.peers - 1) if taught else 0,
        publishes_skipped=30 if taught and not arm.lockstep else 0,
    )


CLICKS_SEEDS = (0, 1, 2, 3)
UPDATES = 300
POSITIONS = 300

PLAIN = Recipe(
    name="clicks", task="adult", method="all_reduce", peers=2, updates=UPDATES, summary="one model, all data"
)
TAUGHT = replace(PLAIN, method="codistillation", summary="two peers that learn from each other")
TWO_PHASE = replace(PLAIN, method="two_phase", summary="teachers first, then a student")
CLICKS_ARMS = (
    PLAIN,
    *(replace(TAUGHT, arm=f"codistillation-{steps}", interval_steps=steps) for steps in (1, 10, 100)),
    replace(PLAIN, method="ensemble", summary="two models that never meet, judged by their mean"),
    methods.method("two_phase").earlier(TWO_PHASE),
    TWO_PHASE,
    *(replace(PLAIN, arm=f"all_reduce-{share}", data_fraction=share) for share in (0.25, 0.5)),
)
CLICKS_CLAIMS = (
    Claim(
        name="A5",
        arm="codistillation-10",
        against="all_reduce",
        metric="test_nll",
        says="two peers are ahead of one",
        expects="ahead",
        margin=0.005,
    ),
    Claim(
        name="A7",
        arm="codistillation-100",
        against="codistillation-10",
        metric="test_auc",
        says="rare exchanges cost nothing",
        expects="parity",
        margin=0.001,
    ),
    Claim(
        name="A9",
        arm="codistillation-10",
        against="all_reduce",
        metric="difference",
        says="retrained models agree more",
        expects="ahead",
    ),
)
SEARCH = {
    "rule": "lowest validation NLL, averaged over peers and seeds",
    "seeds": [100, 101],
    "learning_rates": [0.03, 0.1, 0.3],
    "weight_decays": [0.0, 0.001],
    "arms": [
        {
            "arm": arm.label,
            "chosen": {"learning_rate": 0.1, "weight_decay": 0.001, "validation_nll": 0.3},
            "at_edge": ["weight_decay"] if arm.method == "ensemble" else [],
            "trials": 12,
            "points": [],
        }
        for arm in CLICKS_ARMS
        if arm.method != "teachers"
    ],
}
BUDGET = {"kind": "updates", "says": "All arms were given the same updates.", "arms": {}}


def fabricate_experiment(path: Path) -> Path:
    run = folder.create(
        path, arms=CLICKS_ARMS, seeds=CLICKS_SEEDS, command=["codistill", "compare", "clicks"]
    )
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, POSITIONS)
    for arm in run.arms:
        for seed in run.seeds:
            for peer in methods.method(arm.method).plan(arm).peers:
                _leave(run, arm, seed, peer, targets, random)
    claims.write_claims(run.path, CLICKS_CLAIMS)
    (run.path / "search.json").write_text(json.dumps(SEARCH))
    (run.path / "budget.json").write_text(json.dumps(BUDGET))
    return run.path


def _leave(run, arm, seed, peer, targets, random):
    taught = arm.method in ("codistillation", "two_phase")
    teachers = {"codistillation": "ab".replace(peer, ""), "two_phase": "ab"}.get(arm.method, "")
    level = 0.34 - 0.02 * taught + 0.03 * (1 - arm.data_fraction) + 0.003 * math.log10(arm.interval_steps)
    path = run.peer_path(arm.label, seed, peer)
    path.mkdir(parents=True)
    results.save_evaluations(
        path / results.METRICS,
        [_clicks_row(step, level, teachers, random) for step in range(30, UPDATES + 1, 30)],
    )
    ones = 1 / (1 + np.exp(-(4 * targets - 2 + random.normal(0, 0.6 if taught else 0.9, len(targets)))))
    kept = KeptScores.of_whole(np.log(np.stack([1 - ones, ones], axis=1)).astype(np.float32), targets)
    kept.save(path)
    nll = level + random.normal(0, 0.003)
    results.save_result(
        path / results.RESULT, _clicks_result(arm, seed, peer, nll, kept.accuracy, taught, random)
    )


def _clicks_row(step, level, teachers, random):
    decline = math.exp(-step / 60)
    return Evaluation(
        step=step,
        samples=64 * step,
        train_loss=level + 0.3 * decline + random.normal(0, 0.004),
        distillation_loss=0.3 if teachers else None,
        validation_accuracy=0.85 - 0.1 * decline,
        validation_nll=level + 0.25 * decline + random.normal(0, 0.003),
        distance=6 * (1 - decline) + random.normal(0, 0.05),
        learning_rate=0.1,
        weight_decay=1e-3,
        teacher_share=1.0 if teachers else None,
        teacher_losses=dict.fromkeys(teachers, 0.3 + 0.1 * decline),
        agreements={teacher: 0.97 - 0.1 * decline + random.normal(0, 0.005) for teacher in teachers},
        teacher_ages=dict.fromkeys(teachers, 4.0),
        seconds=step / 100,
    )


def _clicks_result(arm, seed, peer, nll, accuracy, taught, random):
    snapshots = UPDATES // arm.interval_steps * 40_000
    exchanges = arm.method == "codistillation"
    return PeerResult(
        arm=arm.label,
        peer=peer,
        seed=seed,
        updates=UPDATES,
        samples=UPDATES * 32,
        parameters=10_000,
        validation_accuracy=accuracy,
        validation_nll=nll,
        test_accuracy=accuracy,
        test_nll=nll,
        distance=6.0,
        seconds=3.0,
        stall_s=0.4 if exchanges else 0.0,
        bytes_published=snapshots if exchanges else 0,
        bytes_fetched=snapshots if exchanges else 0,
        bytes_all_reduced=UPDATES * 40_000 if arm.method == "all_reduce" else 0,
        teacher_share=1.0 if taught else None,
        teacher_samples=UPDATES * 32 if taught else 0,
        test_calibration_error=0.02 + random.normal(0, 0.001),
        further={"auc": 0.9 - nll / 20},
        peak_memory_bytes=310_000_000,
    )

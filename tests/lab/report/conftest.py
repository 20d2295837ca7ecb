import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn  # noqa: F401 - its first import sets environment variables, which no test may

from codistill.lab import folder, results, tasks
from codistill.lab.recipes import demo
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


@pytest.fixture
def results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up results of all arms of the demo: nothing was trained."""
    monkeypatch.setattr(demo, "grid", lambda: GRID)
    return fabricate(tmp_path / "results")


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
                np.save(path / results.TEST_SCORES, scores)
                np.save(path / results.TEST_TARGETS, targets)
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

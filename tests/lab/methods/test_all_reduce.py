from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codistill.lab import folder, results
from codistill.lab.launch import launch
from codistill.lab.methods.all_reduce import AllReduce
from codistill.lab.methods.base import Place
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.images.digits import Digits
from codistill.lab.trainer import Trainer


def test_all_reduce_trains_one_model_however_many_peers_a_recipe_has(tiny: Recipe) -> None:
    plan = AllReduce.plan(replace(tiny, method="all_reduce", peers=4, ranks=2))
    assert plan.peers == ("a",)
    assert plan.ranks == 2
    assert plan.batch_size == 8
    assert AllReduce.plan(replace(tiny, method="all_reduce", ranks=2, ranks_per_peer=4)).ranks == 4


@pytest.mark.spawn
def test_two_ranks_train_as_one_process_with_the_whole_batch(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, method="all_reduce", ranks=2)
    out = folder.create(tmp_path / "two", arms=[recipe], seeds=[3], command=[])
    (two,) = launch(out, [recipe])
    rows_of_two = results.load_evaluations(out.peer_path("all_reduce", 3, "a") / "metrics.jsonl")
    trainer = Trainer(
        replace(recipe, ranks=1),
        task=Digits(tmp_path),
        place=Place(peer="a", exchange=tmp_path),
        folder=tmp_path / "one",
        device=torch.device("cpu"),
    )
    one = trainer.train(read_test=True)
    assert one is not None
    rows_of_one = results.load_evaluations(tmp_path / "one" / "metrics.jsonl")
    assert two.samples == one.samples == 640
    assert two.validation_nll == pytest.approx(one.validation_nll, abs=1e-5)
    assert two.test_nll == pytest.approx(one.test_nll, abs=1e-5)
    assert two.distance == pytest.approx(one.distance, abs=1e-5)
    # The mean over both ranks, so that of the whole batch.
    assert [row.train_loss for row in rows_of_two] == pytest.approx(
        [row.train_loss for row in rows_of_one], abs=1e-5
    )
    assert one.bytes_all_reduced == 0
    # Of two ranks each sends as much as it has: 2 (2 - 1) / 2 times 26,122 numbers of 4 bytes a step.
    assert two.bytes_all_reduced == 40 * 26122 * 4

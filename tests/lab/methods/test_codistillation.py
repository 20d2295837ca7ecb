from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codistill.errors import RecipeError
from codistill.lab.methods.base import Place
from codistill.lab.methods.codistillation import Codistillation
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult, load_evaluations
from codistill.lab.tasks.images.digits import Digits
from codistill.lab.trainer import Trainer
from codistill.testing.peers import run_peers


def train(recipe: Recipe, folder: Path) -> dict[str, PeerResult]:
    """Train every peer in a thread of its own."""
    task = Digits(folder)

    def train_peer(peer: str) -> PeerResult:
        trainer = Trainer(
            recipe,
            task=task,
            place=Place(peer=peer, exchange=folder / "exchange"),
            folder=folder / peer,
            device=torch.device("cpu"),
        )
        result = trainer.train(read_test=False)
        assert result is not None
        return result

    return run_peers(train_peer, Codistillation.plan(recipe).peers)


def test_a_single_peer_cannot_codistill(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="peers must be >= 2 to codistill, got 1"):
        Codistillation.plan(replace(tiny, peers=1))


def test_a_loss_that_does_not_exist_is_noticed_before_anything_starts(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="recipe 'tiny'"):
        Codistillation.plan(replace(tiny, distillation_loss="telepathy"))


def test_a_loss_that_does_not_go_with_combine_is_noticed_before_anything_starts(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"combine must be 'losses' or 'logits' .*recipe 'tiny'"):
        Codistillation.plan(replace(tiny, distillation_loss="logit_mse", combine="probabilities"))


@pytest.mark.parametrize(
    ("edges", "taught"), [(("a:b",), {"a": None, "b": 1.0}), (("a:b", "b:a"), {"a": 1.0, "b": 1.0})]
)
def test_a_big_peer_teaches_a_small_one_while_both_train(
    tiny: Recipe, tmp_path: Path, edges: tuple[str, ...], taught: dict[str, float | None]
) -> None:
    recipe = replace(tiny, peer_widths=(128, 16), topology="directed", edges=edges)
    results = train(recipe, tmp_path)
    assert {peer: one.teacher_share for peer, one in results.items()} == taught
    assert {peer: one.teacher_samples for peer, one in results.items()} == {
        peer: 0 if share is None else 40 * 8 for peer, share in taught.items()
    }
    for peer, share in taught.items():
        rows = load_evaluations(tmp_path / peer / "metrics.jsonl")
        assert rows[-1].step == 40
        assert rows[-1].distance > 0.0
        assert all((row.distillation_loss is None) == (share is None) for row in rows)
        # A snapshot at the start and one every 5 of the 40 updates; a teacher only looks at what there is.
        assert results[peer].bytes_published > 9 * 4 * results[peer].parameters
    assert results["b"].bytes_fetched > 9 * 4 * results["a"].parameters


def test_a_peer_may_have_several_ranks(tiny: Recipe) -> None:
    plan = Codistillation.plan(replace(tiny, ranks_per_peer=4))
    assert (plan.peers, plan.ranks, plan.batch_size) == (("a", "b"), 4, 2)
    # That a recipe has ranks for all_reduce changes nothing.
    assert Codistillation.plan(replace(tiny, ranks=4)).ranks == 1


# A thread that gets ahead is warned that the other is too young to learn from.
@pytest.mark.filterwarnings("ignore::codistill.errors.CodistillWarning")
@pytest.mark.parametrize("lockstep", [True, False])
def test_peers_of_other_widths_teach_each_other_from_the_first_update(
    tiny: Recipe, tmp_path: Path, *, lockstep: bool
) -> None:
    results = train(replace(tiny, lockstep=lockstep, peer_widths=(16, 8)), tmp_path)
    assert {peer: one.parameters for peer, one in results.items()} == {"a": 1482, "b": 682}
    for one in results.values():
        assert one.teacher_share == 1.0
        assert one.teacher_samples == 40 * 8
        assert (one.quarantined, one.quarantined_updates, one.first_quarantine) == ((), 0, None)
        assert one.weight_factor == 1.0
        assert lockstep <= (one.publishes_skipped == 0)


@pytest.mark.filterwarnings("ignore::codistill.errors.CodistillWarning")
def test_a_teacher_that_learns_nothing_is_quarantined_and_the_result_says_when(
    tiny: Recipe, tmp_path: Path
) -> None:
    recipe = replace(
        tiny,
        updates=300,
        batch_size=64,
        lockstep=False,
        peer_learning_rates=(0.1, 1e-6),
        # With the weight of 1 the teacher would keep the student's own loss too high to be told apart.
        distillation_weight=0.1,
        evaluate_every=300,
    )
    strong = train(recipe, tmp_path)["a"]
    assert strong.first_quarantine is not None
    assert 30 <= strong.first_quarantine <= 300
    assert 0 < strong.quarantined_updates <= 300 - strong.first_quarantine + 1
    # An update has its teacher if there was no quarantine after the update before.
    assert strong.teacher_share is not None
    untaught = strong.quarantined_updates - len(strong.quarantined)
    assert round(300 * strong.teacher_share) == 300 - untaught

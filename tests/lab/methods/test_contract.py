"""What every method must do, whatever it does: one row a method."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codistill.errors import RecipeError
from codistill.lab import methods
from codistill.lab.methods.base import Method, Place
from codistill.lab.recipe import Recipe

# Method -> (changes to the recipe of one process a peer, peers it trains, ranks of each).
ROWS = {
    "all_reduce": ({"ranks": 1}, ("a",), 1),
    "alone": ({}, ("a", "b"), 1),
    "codistillation": ({}, ("a", "b"), 1),
}
HAS_TEACHERS = {"codistillation"}


@pytest.fixture(params=sorted(ROWS))
def recipe(tiny: Recipe, request: pytest.FixtureRequest) -> Recipe:
    return replace(tiny, method=request.param, interval_steps=1, **ROWS[request.param][0])


def run_all_peers(recipe: Recipe, folder: Path, steps: int) -> dict[str, Method]:
    """Take every peer through some steps of the loop, in threads, and close."""

    def peer_loop(peer: str, model: torch.nn.Module) -> Method:
        method = methods.method(recipe.method)(recipe, Place(peer=peer, exchange=folder))
        wrapped = method.wrap(model)
        for _ in range(steps):
            inputs = torch.ones(4, 3)
            logits = wrapped(inputs)
            extra = method.loss(logits, inputs)
            assert extra is None or extra.shape == ()
            taught = method.step(task_loss=torch.tensor(1.0), samples=4)
            assert taught is None or not taught.requires_grad
        method.close()
        return method

    torch.manual_seed(0)
    peers = methods.method(recipe.method).plan(recipe).peers
    models = [torch.nn.Linear(3, 2) for _ in peers]
    with ThreadPoolExecutor(max_workers=len(peers)) as threads:
        return dict(zip(peers, threads.map(peer_loop, peers, models), strict=True))


def test_every_method_has_a_row() -> None:
    assert tuple(sorted(ROWS)) == methods.names()


def test_a_plan_names_the_peers_and_shares_the_batch(recipe: Recipe) -> None:
    _, peers, ranks = ROWS[recipe.method]
    plan = methods.method(recipe.method).plan(recipe)
    assert plan.peers == peers
    assert plan.ranks == ranks
    assert plan.batch_size * len(peers) * ranks == recipe.batch_size
    assert plan.parts == peers


def test_a_batch_that_cannot_be_shared_is_refused(recipe: Recipe) -> None:
    three = replace(recipe, peers=3, ranks=3, batch_size=16)
    with pytest.raises(RecipeError, match="batch_size must be a multiple of the 3 processes"):
        methods.method(recipe.method).plan(three)


def test_ranks_that_a_method_cannot_use_are_refused(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="ranks_per_peer must be 1 under method 'alone', got 2"):
        methods.method("alone").plan(replace(tiny, method="alone", ranks_per_peer=2))


def test_only_methods_with_teachers_meet_in_a_store(recipe: Recipe) -> None:
    assert methods.method(recipe.method).uses_store == (recipe.method in HAS_TEACHERS)


def test_data_may_have_more_parts_than_peers_but_not_fewer(recipe: Recipe) -> None:
    method = methods.method(recipe.method)
    assert method.plan(replace(recipe, regime="disjoint", parts=3)).parts == ("a", "b", "c")
    if len(method.plan(recipe).peers) > 1:
        with pytest.raises(RecipeError, match="parts must be >= 2, one for each peer, got 1"):
            method.plan(replace(recipe, regime="disjoint", parts=1))


def test_the_loop_runs_and_costs_are_counted(recipe: Recipe, tmp_path: Path) -> None:
    for method in run_all_peers(recipe, tmp_path, steps=3).values():
        costs = method.costs()
        if recipe.method in HAS_TEACHERS:
            assert costs.teacher_share == 1.0
            assert costs.teacher_samples == 3 * 4
            assert costs.bytes_published > 0
            assert costs.bytes_fetched > 0
        else:
            assert costs.teacher_share is None
            assert costs.teacher_samples == costs.bytes_published == costs.bytes_fetched == 0


def test_its_state_is_plain_and_can_be_loaded(recipe: Recipe, tmp_path: Path) -> None:
    for peer, method in run_all_peers(recipe, tmp_path, steps=2).items():
        torch.save(method.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        again = methods.method(recipe.method)(recipe, Place(peer=peer, exchange=tmp_path))
        again.wrap(torch.nn.Linear(3, 2))
        again.load_state_dict(state)
        assert again.costs() == method.costs()


def test_the_mean_over_one_rank_is_the_value(recipe: Recipe, tmp_path: Path) -> None:
    method = methods.method(recipe.method)(recipe, Place(peer="a", exchange=tmp_path))
    assert float(method.mean_over_ranks(torch.tensor(2.5))) == 2.5


def test_an_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(RecipeError, match="must be one of all_reduce, alone, codistillation, got 'magic'"):
        methods.method("magic")

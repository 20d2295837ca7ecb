"""What every method must do, whatever it does: one row a method."""

import itertools
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from codistill.errors import RecipeError
from codistill.lab import folder, methods, rank
from codistill.lab.job import Job
from codistill.lab.launch import LaunchOptions, launch
from codistill.lab.methods.base import Method, Place
from codistill.lab.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RowOf:
    """What a method makes of the recipe of two peers."""

    peers: tuple[str, ...] = ("a",)
    ranks: int = 1
    has_teachers: bool = False
    uses_store: bool = False
    runs_apart: bool = True
    """Whether its jobs are single processes that need no process group."""


ROWS = {
    "all_reduce": RowOf(ranks=2, runs_apart=False),
    "alone": RowOf(peers=("a", "b")),
    "codistillation": RowOf(peers=("a", "b"), has_teachers=True, uses_store=True),
    "codistillation_disjoint": RowOf(peers=("a", "b"), has_teachers=True, uses_store=True),
    "codistillation_predictions": RowOf(peers=("a", "b"), has_teachers=True, runs_apart=False),
    "codistillation_same_data": RowOf(peers=("a", "b"), has_teachers=True, uses_store=True),
    "diloco": RowOf(ranks=2, runs_apart=False),
    "ensemble": RowOf(peers=("a", "b")),
    "frozen_previous": RowOf(has_teachers=True, uses_store=True, runs_apart=False),
    "label_smoothing": RowOf(ranks=2, runs_apart=False),
    "local_sgd": RowOf(ranks=2, runs_apart=False),
    "mutual": RowOf(peers=("a", "b"), has_teachers=True, runs_apart=False),
    "teachers": RowOf(peers=("a", "b"), uses_store=True),
    "two_phase": RowOf(has_teachers=True, uses_store=True, runs_apart=False),
    "unigram_smoothing": RowOf(ranks=2, runs_apart=False),
}


def adapted(tiny: Recipe, name: str, **changes: object) -> Recipe:
    return methods.method(name).adapt(replace(tiny, method=name, arm=name, **changes))


@pytest.fixture(params=sorted(ROWS))
def recipe(tiny: Recipe, request: pytest.FixtureRequest) -> Recipe:
    return adapted(tiny, request.param)


@pytest.fixture(params=sorted(name for name, row in ROWS.items() if row.runs_apart))
def recipe_of_threads(tiny: Recipe, request: pytest.FixtureRequest) -> Recipe:
    # Looked at after every step.
    return adapted(tiny, request.param, interval_steps=1, evaluate_every=1)


def run_all_peers(recipe: Recipe, folder: Path, steps: int) -> dict[str, Method]:
    """Take every peer through some steps of the loop, in threads, and close."""

    def peer_loop(peer: str, model: torch.nn.Module) -> Method:
        method = methods.method(recipe.method)(recipe, Place(peer=peer, exchange=folder))
        wrapped = method.wrap(model)
        for _ in range(steps):
            inputs = torch.ones(4, 3)
            logits = wrapped(inputs)
            (extra,) = method.losses([logits], inputs)
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
    row, plan = ROWS[recipe.method], methods.method(recipe.method).plan(recipe)
    assert (plan.peers, plan.ranks) == (row.peers, row.ranks)
    assert plan.batch_size * len(row.peers) * row.ranks == recipe.batch_size
    assert plan.parts == row.peers
    assert sorted(peer for job in plan.jobs for peer in job) == list(plan.peers)
    places = [
        (peer, rank)
        for job in plan.jobs
        for process in range(plan.processes)
        for peers, rank in [plan.places_of(job, process)]
        for peer in peers
    ]
    assert sorted(places) == [(peer, rank) for peer in row.peers for rank in range(row.ranks)]


def test_a_recipe_is_adapted_once_and_for_all(recipe: Recipe) -> None:
    assert methods.method(recipe.method).adapt(recipe) == recipe


@pytest.mark.parametrize("name", ["all_reduce", "diloco"])
def test_one_model_gets_the_ranks_of_all_peers_it_is_held_against(tiny: Recipe, name: str) -> None:
    recipe = adapted(tiny, name, peers=2, ranks_per_peer=4, batch_size=16)
    assert methods.method(name).plan(recipe).ranks == 8


def test_a_batch_that_cannot_be_shared_is_refused(tiny: Recipe) -> None:
    for name in ("all_reduce", "alone", "codistillation", "mutual", "diloco"):
        three = adapted(tiny, name, peers=3, ranks=3, batch_size=16)
        with pytest.raises(RecipeError, match="batch_size must be a multiple of the 3 processes"):
            methods.method(name).plan(three)


def test_ranks_that_a_method_cannot_use_are_refused(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="ranks_per_peer must be 1 under method 'alone', got 2"):
        methods.method("alone").plan(replace(tiny, method="alone", ranks_per_peer=2))


def test_it_says_whether_peers_meet_in_a_store(recipe: Recipe) -> None:
    assert methods.method(recipe.method).uses_store == ROWS[recipe.method].uses_store


def test_data_may_have_more_parts_than_peers_but_not_fewer(recipe_of_threads: Recipe) -> None:
    method, recipe = methods.method(recipe_of_threads.method), recipe_of_threads
    assert method.plan(replace(recipe, regime="disjoint", parts=3)).parts == ("a", "b", "c")
    with pytest.raises(RecipeError, match="parts must be >= 2, one for each peer, got 1"):
        method.plan(replace(recipe, regime="disjoint", parts=1))


def test_the_loop_runs_and_costs_are_counted(recipe_of_threads: Recipe, tmp_path: Path) -> None:
    for method in run_all_peers(recipe_of_threads, tmp_path, steps=3).values():
        costs = method.costs()
        if ROWS[recipe_of_threads.method].has_teachers:
            assert costs.teacher_share == 1.0
            assert costs.teacher_samples == 3 * 4
            assert costs.bytes_published > 0
            assert costs.bytes_fetched > 0
            lessons = method.lessons()
            assert sorted(lessons.losses) == sorted(lessons.agreements) != []
            assert all(0 <= value <= 1 for value in lessons.agreements.values())
        else:
            assert costs.teacher_share is None
            assert costs.teacher_samples == costs.bytes_published == costs.bytes_fetched == 0
            assert not method.lessons().losses


def test_logits_are_kept_for_an_evaluation_only(tiny: Recipe, tmp_path: Path) -> None:
    recipe = adapted(tiny, "codistillation", interval_steps=1, evaluate_every=2)
    for steps, is_due in ((2, True), (3, False)):
        for method in run_all_peers(recipe, tmp_path / str(steps), steps).values():
            assert bool(method.lessons().losses) == is_due


def test_its_state_is_plain_and_can_be_loaded(recipe_of_threads: Recipe, tmp_path: Path) -> None:
    recipe = recipe_of_threads
    for peer, method in run_all_peers(recipe, tmp_path, steps=2).items():
        torch.save(method.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        again = methods.method(recipe.method)(recipe, Place(peer=peer, exchange=tmp_path))
        again.wrap(torch.nn.Linear(3, 2))
        again.load_state_dict(state)
        assert again.costs() == method.costs()


def test_the_mean_over_one_rank_is_the_value(recipe_of_threads: Recipe, tmp_path: Path) -> None:
    recipe = recipe_of_threads
    method = methods.method(recipe.method)(recipe, Place(peer="a", exchange=tmp_path))
    assert float(method.mean_over_ranks(torch.tensor(2.5))) == 2.5


def test_an_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(
        RecipeError, match=r"must be one of all_reduce, alone, codistillation, .*, got 'magic'"
    ):
        methods.method("magic")


# Recipes of one shape are trained in turn by the same processes.
SHAPES = {
    "two ranks": ("all_reduce", "diloco", "label_smoothing", "local_sgd", "unigram_smoothing"),
    "one world": ("codistillation_predictions",),
}
IN_PROCESS = ("frozen_previous", "mutual", "teachers", "two_phase")


def train_here(recipe: Recipe, run: folder.RunFolder) -> None:
    """Train each model of a recipe in this process, one after another, after what comes before it."""
    earlier = methods.method(recipe.method).earlier(recipe)
    if earlier is not None:
        train_here(earlier, run)
    for peer, *others in methods.method(recipe.method).plan(recipe).jobs:
        if not (run.peer_path(recipe.label, recipe.seed, peer) / "result.json").exists():
            job = Job(
                peer=peer,
                others=tuple(others),
                recipes=(recipe,),
                out=run.path,
                logs=run.path,
                data_root=run.path,
                device="cpu",
                read_test=True,
            )
            rank.run(job, rank=0, ranks=1)


def train_all(tiny: Recipe, run: folder.RunFolder) -> None:
    """Train whatever has not finished of all methods that need more than single processes or one phase."""
    for names in SHAPES.values():
        launch(run, [recipe_of_jobs(tiny, name) for name in names], options=LaunchOptions(device="cpu"))
    for name in IN_PROCESS:
        train_here(recipe_of_jobs(tiny, name), run)


def recipe_of_jobs(tiny: Recipe, name: str) -> Recipe:
    return adapted(tiny, name, checkpoint_every=15, learning_rate_drops=())


@pytest.fixture(scope="module")
def trained(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> folder.RunFolder:
    """All of them, trained once."""
    arms = [recipe_of_jobs(tiny, name) for name in (*sum(SHAPES.values(), ()), *IN_PROCESS)]
    before = [methods.method(arm.method).earlier(arm) for arm in arms]
    arms = [*(arm for arm in before if arm is not None), *arms]
    run = folder.create(tmp_path_factory.mktemp("trained") / "out", arms=arms, seeds=[tiny.seed], command=[])
    train_all(tiny, run)
    return run


@pytest.mark.spawn
@pytest.mark.parametrize("name", [*sum(SHAPES.values(), ()), *IN_PROCESS])
def test_it_trains_as_jobs(trained: folder.RunFolder, name: str) -> None:
    row = ROWS[name]
    results = [trained.result(name, 3, peer) for peer in row.peers]
    for one in results:
        assert one.samples == 40 * 16 // len(row.peers)
        assert one.teacher_share == (1.0 if row.has_teachers else None)
        assert one.test_accuracy > 0.15
        # Gradients at every update, or weights at every fifth, of 26,122 numbers on two ranks.
        often = dict.fromkeys(SHAPES["two ranks"], 40) | {"diloco": 8, "local_sgd": 8}
        assert one.bytes_all_reduced == often.get(name, 0) * 26122 * 4


@pytest.mark.spawn
def test_prediction_exchange_and_mutual_learning_are_one_algorithm(trained: folder.RunFolder) -> None:
    for peer in "ab":
        one = trained.result("codistillation_predictions", 3, peer)
        other = trained.result("mutual", 3, peer)
        assert one.validation_nll == pytest.approx(other.validation_nll, abs=1e-5)
        assert one.distance == pytest.approx(other.distance, abs=1e-5)


@pytest.mark.spawn
def test_runs_that_were_killed_go_on_bit_for_bit(
    tiny: Recipe, trained: folder.RunFolder, tmp_path: Path, bits_of: Callable[[Path], list[object]]
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(trained.path, copy)
    run = folder.RunFolder(copy)
    names = ("diloco", "local_sgd", "codistillation_predictions", "mutual", "teachers", "two_phase")
    paths = {name: [run.peer_path(name, 3, peer) for peer in ROWS[name].peers] for name in names}
    before = {name: [bits_of(path) for path in paths[name]] for name in names}
    # As if all had been killed in the last update: the newest checkpoints are of update 30.
    for path in itertools.chain.from_iterable(paths.values()):
        (path / "result.json").unlink()
        (path / "test_targets.npy").unlink()
    train_all(tiny, run)
    assert {name: [bits_of(path) for path in paths[name]] for name in names} == before

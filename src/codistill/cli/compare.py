"""``codistill compare``: tune, train and compare several methods on one recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from codistill.cli import outcome, output, parsing, recipe_first
from codistill.cli.usage import UsageError
from codistill.lab.budget import Budget
from codistill.lab.contest import Contest, hold
from codistill.lab.experiment import arms_of, with_earlier
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe
from codistill.lab.search import search_label


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Tune each method on validation data with the same trials, train it with paired seeds, and compare."""

    recipe: tyro.conf.OmitArgPrefixes[Recipe]
    """What all methods have in common."""
    methods: tuple[str, ...] = ()
    """Methods to compare, the first being what others are held against; all_reduce and the recipe's own."""
    seeds: int = 3
    """How often each arm is trained, with seeds 0, 1, ..."""
    budget: Budget = "updates"
    """What all arms have as much of as the first."""
    no_search: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take the recipe's learning rate and weight decay for all."""
    search_learning_rates: tuple[float, ...] = ()
    """Learning rates to try; a third, once and three times the recipe's if none are given."""
    search_weight_decays: tuple[float, ...] = ()
    """Weight decays to try; 0, once and ten times the recipe's if none are given."""
    search_seeds: int = 1
    """Runs at each point of the search, with seeds 100, 101, ..."""
    sweep: tuple[str, ...] = ()
    """A field of the recipe and values for it: each method is trained with each."""
    cores: int | None = None
    """Cores to use; all if not given."""
    trackers: tuple[str, ...] = ()
    """Where metrics are shown besides metrics.jsonl: csv, tensorboard, trackio, wandb."""
    data_root: Path | None = None
    """Folder that holds the data sets' folders; $CODISTILL_DATA, else ./data, if not given."""
    out: Path | None = None
    """Folder for the results; runs/ and the name of the recipe and -compared, if not given."""
    device: str = "auto"
    """Where models live: "auto", "cpu", "cuda", or another device of torch."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what an earlier comparison left in the folder."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Finish what an earlier comparison left in the folder."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the comparison as JSON."""


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsed = recipe_first.parse(Compare, lambda recipe: Compare(recipe=recipe), arguments, verb="compare")
    if parsed is not None:
        options, default = parsed
        compare(options, default, command=["codistill", "compare", *arguments])


def compare(options: Compare, default: Compare, *, command: Sequence[str]) -> None:
    """Search, train, compare, print.

    Args:
        options: What the command line says.
        default: What it would say without options.
        command: The command line, for the record.
    """
    if options.seeds < 1:
        raise UsageError(f"seeds must be >= 1, got {options.seeds}. Differences show from 2 on.")
    if options.search_seeds < 1:
        raise UsageError(f"search_seeds must be >= 1, got {options.search_seeds}. Or pass --no-search.")
    _check_effect(options, default)
    contest = Contest(
        recipe=options.recipe,
        methods=options.methods or tuple(dict.fromkeys(("all_reduce", options.recipe.method))),
        seeds=tuple(range(options.seeds)),
        budget=options.budget,
        searches=not options.no_search,
        learning_rates=options.search_learning_rates,
        weight_decays=options.search_weight_decays,
        search_seeds=options.search_seeds,
        sweep=options.sweep,
    )
    with output.bars(_expected(contest)) as show:
        folder = hold(
            contest,
            out=options.out or Path("runs") / f"{options.recipe.name}-compared",
            options=LaunchOptions(
                data_root=options.data_root,
                device=options.device,
                cores=options.cores,
                trackers=options.trackers,
            ),
            command=command,
            if_exists=parsing.if_exists(overwrite=options.overwrite, resume=options.resume),
            on_progress=show,
        )
    outcome.show(folder.path, json=options.json)


def _check_effect(options: Compare, default: Compare) -> None:
    """Refuse what would change nothing."""
    for field, instead in (("arm", "--methods"), ("seed", "--seeds"), ("method", "--methods")):
        is_heard = field == "method" and not options.methods
        asked = getattr(options.recipe, field)
        if asked != getattr(default.recipe, field) and not is_heard:
            raise UsageError(f"{field} must be left out of a comparison, got {asked!r}. Pass {instead}.")
    asks_to_search = (
        options.search_learning_rates or options.search_weight_decays or options.search_seeds != 1
    )
    if options.no_search and asks_to_search:
        raise UsageError(
            "no_search must not be given with what is to be searched, got both. Leave one of them out."
        )


def _expected(contest: Contest) -> dict[str, int]:
    """Return the updates of every bar: those of the searches, then those of the arms.

    Raises:
        RecipeError: If a method cannot train the recipe, or there is nothing to search.
        UsageError: If a seed would be both searched and compared with.
    """
    own = [arm for arm in arms_of(contest.recipe, contest.methods) if arm.label in contest.methods]
    expected = {}
    if contest.searches:
        space = contest.space()
        if set(space.seeds) & set(contest.seeds):
            raise UsageError(
                f"seeds must be <= {space.seeds[0]}, got {len(contest.seeds)}. "
                "The search has those from there on, or pass --no-search."
            )
        for arm in own:
            updates = sum(one.updates for one in with_earlier([arm]))
            expected[search_label(arm.label)] = space.trials * len(space.seeds) * updates
    for arm in own:
        for one in with_earlier(contest.swept(arm)):
            expected[one.label] = len(contest.seeds) * one.updates
    return expected

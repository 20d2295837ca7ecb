"""A comparison of methods on one recipe: tuned alike, trained with paired seeds, on one budget."""

import dataclasses
import shutil
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codistill.errors import RecipeError, RunExistsError
from codistill.lab import documents, experiment, folder
from codistill.lab.budget import DOCUMENT, Budget, allot
from codistill.lab.folder import IfExists, RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress, check
from codistill.lab.recipe import Recipe
from codistill.lab.search import RECORD, search_arms
from codistill.lab.search_space import SearchSpace

_FIRST_SEARCH_SEED = 100

# A comparison sets these itself.
_NOT_SWEPT = ("name", "arm", "method", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is compared, and how fairly.

    Raises:
        RecipeError: If a field is out of its range.
    """

    recipe: Recipe
    """What all methods have in common."""
    methods: tuple[str, ...]
    """Names of methods; the first is what the others are held against."""
    seeds: tuple[int, ...]
    """Seeds of each arm."""
    budget: Budget = "updates"
    """What all arms have as much of as the first."""
    searches: bool = True
    """Whether learning rate and weight decay are searched, for each method alike."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to try; around the recipe's if empty."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays to try; around the recipe's if empty."""
    search_seeds: int = 1
    """Runs at each point."""
    sweep: tuple[str, ...] = ()
    """A field of the recipe, then values for it: each method is trained with each, with the settings that
    were chosen for it at the recipe's own value."""

    def __post_init__(self) -> None:
        """Check what no recipe would."""
        if len(self.sweep) == 1:
            raise RecipeError(f"sweep must be a field and one or more values, got {self.sweep[0]!r} alone.")
        if self.sweep:
            self.swept(self.recipe)

    def space(self) -> SearchSpace:
        """Return the points that each method is tried at."""
        around = SearchSpace.around(self.recipe)
        return SearchSpace(
            learning_rates=self.learning_rates or around.learning_rates,
            weight_decays=self.weight_decays or around.weight_decays,
            seeds=tuple(range(_FIRST_SEARCH_SEED, _FIRST_SEARCH_SEED + self.search_seeds)),
        )

    def swept(self, arm: Recipe) -> list[Recipe]:
        """Return an arm with each value of the sweep; the arm alone without one."""
        if not self.sweep:
            return [arm]
        field, *values = self.sweep
        kind = _kind_of(field)
        if len(set(values)) != len(values):
            raise RecipeError(f"sweep must have different values of {field}, got {' '.join(values)}.")
        try:
            parsed = [kind(value) for value in values]
        except ValueError as e:
            raise RecipeError(f"sweep must have values of {field}, got {' '.join(values)}: {e}.") from e
        return [
            replace(arm, arm=f"{arm.label}-{field}-{text}", **{field: value})
            for text, value in zip(values, parsed, strict=True)
        ]


def hold(
    contest: Contest,
    *,
    out: Path,
    options: LaunchOptions,
    command: Sequence[str],
    if_exists: IfExists = "refuse",
    on_progress: OnProgress | None = None,
) -> RunFolder:
    """Search, train, and leave everything that a report needs; what is there already is kept.

    The search lies beside the results, in ``<out>-search``.

    Args:
        contest: What is compared.
        out: The results folder.
        options: As for `codistill.lab.launch`; stores are kept for the first seed.
        command: The command line, for the record.
        if_exists: What to do about an earlier comparison, as for `codistill.lab.folder.create`.
        on_progress: Called with the label of an arm, its updates done, and its updates in all.

    Raises:
        RecipeError, DataMissingError, ExtraMissingError: Before anything is trained.
        RunExistsError: If there is an earlier comparison or search, and that is refused, or was another one;
            or if the folder of the search holds anything else.
        JobError: If a job fails.

    **Blocks**: until all have finished.

    **On failure**: what has finished stays; a second call with ``if_exists="resume"`` goes on from it.
    """
    arms = _own_arms(contest)
    check([one for arm in arms for one in experiment.with_earlier(contest.swept(arm))], options=options)
    space = contest.space()
    searched = out.with_name(f"{out.name}-search")
    # Refused or cleared before hours are spent on the search.
    planned = [one for arm in arms for one in contest.swept(arm)]
    if if_exists != "resume":
        # Of results that are there already, `create` has more to say.
        _check_search(searched, is_refused=if_exists == "refuse" and not out.exists())
        folder.create(out, arms=planned, seeds=contest.seeds, command=command, if_exists=if_exists)
        shutil.rmtree(out)
        shutil.rmtree(searched, ignore_errors=True)
    elif out.is_dir() and any(out.iterdir()):
        # Refuses what is no results folder.
        RunFolder(out)
    record: dict[str, Any] | None = None
    if contest.searches:
        arms, record = search_arms(arms, space, out=searched, options=options, on_progress=on_progress)
        if contest.sweep:
            record["sweep"] = {
                "field": contest.sweep[0],
                "values": list(contest.sweep[1:]),
                "says": "Each method was searched once, at the recipe's own value.",
            }
    allotment = allot(
        [one for arm in arms for one in contest.swept(arm)],
        contest.budget,
        options=options,
        measured=_measured_before(out / DOCUMENT, contest.budget),
    )
    runs = folder.create(out, arms=allotment.arms, seeds=contest.seeds, command=command, if_exists="resume")
    documents.write_json(runs.path / DOCUMENT, allotment.to_document())
    if record is not None:
        documents.write_json(runs.path / RECORD, record)
    experiment.train(runs, options=replace(options, keep_exchange="first"), on_progress=on_progress)
    return runs


def _check_search(path: Path, *, is_refused: bool) -> None:
    """Refuse a folder for the search that is not to be deleted."""
    if not path.exists():
        return
    if not path.is_dir() or not all(
        (one / folder.MARK).exists() or one.name == RECORD for one in path.iterdir()
    ):
        raise RunExistsError(
            f"out must leave its neighbour {path} to the search, which holds something else. "
            "Name another folder; this one is left as it is."
        )
    if is_refused:
        raise RunExistsError(
            f"out must be of a new comparison, got one whose search is in {path} already. "
            "Pass --resume to go on from it, or --overwrite to delete it and start again."
        )


def _measured_before(path: Path, kind: Budget) -> dict[str, float] | None:
    """Return what updates cost when the comparison that goes on was begun."""
    if not path.exists():
        return None
    document = documents.read_json(path)
    if not isinstance(document, Mapping) or document.get("kind") != kind:
        return None
    return {str(label): float(cost) for label, cost in document["costs"].items()}


def _own_arms(contest: Contest) -> tuple[Recipe, ...]:
    """Return an arm a method, without what is trained before it."""
    every = experiment.arms_of(contest.recipe, contest.methods)
    return tuple(arm for arm in every if arm.label in contest.methods)


def _kind_of(field: str) -> type:
    """Return what a field of a recipe is made from: str, int, float."""
    own = {one.name for one in dataclasses.fields(Recipe)} - set(_NOT_SWEPT)
    hint = typing.get_type_hints(Recipe)[field] if field in own else None
    # A field of several values, a tuple, is not one.
    choices = () if typing.get_origin(hint) is tuple else (hint, *typing.get_args(hint))
    kinds: list[type] = [kind for kind in (int, float, str) if kind in choices]
    if typing.get_origin(hint) is typing.Literal:
        kinds = [str]
    if not kinds:
        raise RecipeError(
            f"sweep must be of a field that holds a number or a word, such as interval_steps, got {field!r}. "
            f"The fields are {', '.join(sorted(own))}."
        )
    return kinds[0]

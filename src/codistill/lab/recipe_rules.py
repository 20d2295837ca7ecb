"""What a recipe's fields must be, each for itself and together."""

import math
import re
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from codistill.errors import RecipeError
from codistill.lab import methods, tasks
from codistill.lab.peer_names import MOST_PEERS, peer_names

if TYPE_CHECKING:
    from codistill.lab.recipe import Recipe

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDER_NAME_RULE = "be made of letters, digits, '.', '_' and '-', beginning with a letter or digit"

_AT_LEAST_1 = ("ranks", "updates", "batch_size", "interval_steps", "evaluate_every")
_AT_LEAST_1_OR_NONE = ("ranks_per_peer", "checkpoint_every", "teacher_updates")
_AT_LEAST_0 = ("burn_in_steps", "warmup_steps", "seed")
_POSITIVE = (
    "learning_rate",
    "learning_rate_factor",
    "temperature",
    "distillation_weight_factor",
    "outer_learning_rate",
)
_POSITIVE_OR_NONE = ("gradient_clip", "distillation_weight_maximum")
_NOT_NEGATIVE = ("weight_decay", "weight_decay_factor", "distillation_weight", "distillation_weight_added")
_SHARES = ("momentum", "label_smoothing", "outer_momentum")
_VALUES_BY_PEER = ("peer_learning_rates", "peer_widths", "peer_models")


def check_recipe(recipe: "Recipe") -> None:
    """Check a recipe.

    Raises:
        RecipeError: If a field is out of its range or contradicts another one.
    """
    # Both become folders, and must not lead out of the one they are put in.
    _check(recipe, "name", _FOLDER_NAME.fullmatch(recipe.name), _FOLDER_NAME_RULE)
    _check(recipe, "arm", not recipe.arm or _FOLDER_NAME.fullmatch(recipe.arm), _FOLDER_NAME_RULE)
    if not tasks.is_own(recipe.task):
        _check_listed(recipe, "task", tasks.names())
    _check_listed(recipe, "method", methods.names())
    for field, choices in _choices(type(recipe)).items():
        _check_listed(recipe, field, choices)
    _check(recipe, "peers", 1 <= recipe.peers <= MOST_PEERS, f"be from 1 to {MOST_PEERS}")
    for field in _AT_LEAST_1:
        _check(recipe, field, getattr(recipe, field) >= 1, "be >= 1")
    for field in _AT_LEAST_1_OR_NONE:
        _check(recipe, field, getattr(recipe, field) is None or getattr(recipe, field) >= 1, "be >= 1")
    for field in _AT_LEAST_0:
        _check(recipe, field, getattr(recipe, field) >= 0, "be >= 0")
    for field in _POSITIVE:
        _check(recipe, field, 0 < getattr(recipe, field) < math.inf, "be > 0 and finite")
    for field in _POSITIVE_OR_NONE:
        value = getattr(recipe, field)
        _check(recipe, field, value is None or 0 < value < math.inf, "be > 0 and finite")
    for field in _NOT_NEGATIVE:
        _check(recipe, field, 0 <= getattr(recipe, field) < math.inf, "be >= 0 and finite")
    for field in _SHARES:
        _check(recipe, field, 0 <= getattr(recipe, field) < 1, "be >= 0 and < 1")
    _check(recipe, "data_fraction", 0 < recipe.data_fraction <= 1, "be > 0 and <= 1")
    _check(recipe, "warmup_from", 0 <= recipe.warmup_from <= 1, "be >= 0 and <= 1")
    _check_course(recipe)
    _check_values_by_peer(recipe)
    _check_parts(recipe)
    _check_edges(recipe)


def _choices(cls: type) -> dict[str, tuple[str, ...]]:
    """Return the values of each field that has a fixed set of them."""
    hints = typing.get_type_hints(cls)
    return {
        field: typing.get_args(hint) for field, hint in hints.items() if typing.get_origin(hint) is Literal
    }


def _check_course(recipe: "Recipe") -> None:
    drops = recipe.learning_rate_drops
    rising = all(0 < drop < 1 for drop in drops) and list(drops) == sorted(set(drops))
    _check(recipe, "learning_rate_drops", rising, "rise strictly between 0 and 1")
    decays = recipe.weight_decays
    _check(
        recipe,
        "weight_decays",
        len(decays) in (0, len(drops)),
        f"have one value for each of {len(drops)} drops",
    )
    _check(recipe, "weight_decays", all(0 <= value < math.inf for value in decays), "be >= 0 and finite")
    _check(
        recipe,
        "distillation_weight_added",
        recipe.distillation_weight_added == 0 or recipe.distillation_weight_factor == 1,
        "be 0 where distillation_weight_factor is not 1",
    )
    _check(
        recipe, "warmup_steps", recipe.warmup_steps <= recipe.updates, f"be <= {recipe.updates}, the updates"
    )
    if recipe.weight_decay == 0:
        _check(recipe, "weight_decays", not any(decays), "be left out where weight_decay is 0")


def _check_values_by_peer(recipe: "Recipe") -> None:
    for field in _VALUES_BY_PEER:
        values = getattr(recipe, field)
        rule = f"have one value for each of {recipe.peers} peers"
        _check(recipe, field, len(values) in (0, recipe.peers), rule)
    for field in ("peer_learning_rates", "peer_widths"):
        _check(
            recipe, field, all(0 < value < math.inf for value in getattr(recipe, field)), "be > 0 and finite"
        )


def _check_parts(recipe: "Recipe") -> None:
    if recipe.parts is None:
        return
    _check(recipe, "parts", recipe.parts >= 1, "be >= 1")
    if recipe.regime != "disjoint":
        raise RecipeError(
            f'parts must be left out unless regime is "disjoint", got {recipe.parts}. '
            f'Set regime="disjoint" in recipe {recipe.name!r}.'
        )


def _check_edges(recipe: "Recipe") -> None:
    if recipe.topology != "directed":
        _check(recipe, "edges", not recipe.edges, "be left out unless topology is 'directed'")
        return
    _check(recipe, "edges", recipe.edges, "name at least one teacher:student under topology 'directed'")
    names = peer_names(recipe.peers)
    for teacher, student in recipe.teacher_pairs():
        is_pair = teacher in names and student in names and teacher != student
        _check(recipe, "edges", is_pair, f"join two different peers of {', '.join(names)}, such as a:b")


def _check(recipe: "Recipe", field: str, holds: object, rule: str) -> None:
    if not holds:
        raise RecipeError(
            f"{field} must {rule}, got {getattr(recipe, field)!r}. Change it in recipe {recipe.name!r}."
        )


def _check_listed(recipe: "Recipe", field: str, choices: Iterable[str]) -> None:
    listed = ", ".join(repr(choice) for choice in choices)
    _check(recipe, field, getattr(recipe, field) in choices, f"be one of {listed}")

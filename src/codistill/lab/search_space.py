"""The points at which every arm is tried."""

import math
from dataclasses import dataclass

from codistill.errors import RecipeError
from codistill.lab.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The points that every arm is tried at.

    Raises:
        RecipeError: If a list is empty, or holds a number twice or one that is out of range.
    """

    learning_rates: tuple[float, ...]
    """Learning rates, > 0."""
    weight_decays: tuple[float, ...]
    """Weight decays at the start, >= 0."""
    seeds: tuple[int, ...] = (100,)
    """Seeds of the runs at every point; none of the comparison's."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("learning_rates", "weight_decays", "seeds"):
            values = getattr(self, name)
            is_positive = name == "learning_rates"
            in_range = all(math.isfinite(value) and value >= 0 for value in values)
            if not values or len(set(values)) != len(values) or not in_range or (is_positive and 0 in values):
                raise RecipeError(
                    f"{name} to search must be one or more different numbers "
                    f"{'>' if is_positive else '>='} 0, got {list(values)}. "
                    "Change them, or train without a search."
                )

    @property
    def trials(self) -> int:
        """Points, so runs an arm and seed."""
        return len(self.learning_rates) * len(self.weight_decays)

    @classmethod
    def around(cls, recipe: Recipe) -> "SearchSpace":
        """Return nine points around the settings of a recipe."""
        rate, decay = recipe.learning_rate, recipe.weight_decay
        return cls(
            learning_rates=(rate / 3, rate, 3 * rate),
            weight_decays=(0.0, decay, 10 * decay) if decay else (0.0, 1e-4, 1e-3),
        )

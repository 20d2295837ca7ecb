"""What one experiment of a paper trains, to be had at the paper's scale and at that of a laptop."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Entry, Scale, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the variants of a paper on one kind of data have in common, at one scale."""

    recipe: Recipe
    """What they differ from in a few fields; named as the paper is."""
    deviations: tuple[str, ...] = ()
    """As for `Entry`."""
    unverified: tuple[str, ...] = ()
    """As for `Entry`."""
    ours: tuple[str, ...] = ()
    """As for `Entry`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How what an experiment trains differs from its setting: at both scales, or ``_at`` one of them."""

    key: str
    """Its name within the paper, such as s3."""
    place: str
    """Where in the paper it stands."""
    rows: tuple[str, ...]
    """As for `Entry`."""
    summary: str
    """What it trains, in a few words."""
    reproduces: str
    """As for `Entry`."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the recipe that differ from the setting's."""
    changes_at: Mapping[Scale, Mapping[str, Any]] = field(default_factory=dict)
    """Those that differ from one scale to the other."""
    sweep_at: Mapping[Scale, tuple[Sweep, ...]] = field(default_factory=dict)
    """What is varied."""
    deviations: tuple[str, ...] = ()
    """As for `Entry`, besides the setting's."""
    deviations_at: Mapping[Scale, tuple[str, ...]] = field(default_factory=dict)
    """Those of one scale."""
    unverified: tuple[str, ...] = ()
    """As for `Entry`, besides the setting's."""
    ours: tuple[str, ...] = ()
    """As for `Entry`, besides the setting's."""


def entries(paper: str, settings: Mapping[Scale, Setting], variants: Iterable[Variant]) -> Iterator[Entry]:
    """Yield variants at each scale of their setting, named ``<setting>-<variant>-<scale>``.

    Args:
        paper: As for `Entry`.
        settings: Of each scale that there is.
        variants: What to make of them.
    """
    for variant in variants:
        for scale, setting in settings.items():
            name = f"{setting.recipe.name}-{variant.key}-{scale}"
            changes = {**variant.changes, **variant.changes_at.get(scale, {})}
            yield Entry(
                recipe=replace(setting.recipe, name=name, summary=variant.summary, **changes),
                paper=paper,
                place=variant.place,
                rows=variant.rows,
                scale=scale,
                reproduces=variant.reproduces,
                deviations=(
                    *setting.deviations,
                    *variant.deviations,
                    *variant.deviations_at.get(scale, ()),
                ),
                unverified=(*setting.unverified, *variant.unverified),
                ours=(*setting.ours, *variant.ours),
                sweep=variant.sweep_at.get(scale, ()),
            )

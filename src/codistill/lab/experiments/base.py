"""An experiment: arms, the search that tunes them, and the rule that was written down before it ran."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from codistill.lab.claims import Claim
from codistill.lab.recipe import Recipe
from codistill.lab.search_space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is trained to judge claims of a paper at the scale of a laptop."""

    name: str
    """The rows of the papers' experiments that it is about, such as "S1-S3"."""
    paper: str
    """Whose claims, and where."""
    says: str
    """What the paper says, in a sentence or two."""
    regime: str
    """What is trained here, and why it is trained far enough, or not, for the claim to show."""
    arms: tuple[Recipe, ...]
    """What is trained, in the order of the table."""
    space: SearchSpace
    """Where learning rate and weight decay are searched, the same for every arm."""
    settings_of: Mapping[str, str] = field(default_factory=dict)
    """Arm that is not searched itself -> the arm whose settings it has."""
    claims: tuple[Claim, ...]
    """What is judged, and by which rule."""
    deviations: tuple[str, ...]
    """How this differs from what the paper did."""
    no_evidence: tuple[str, ...] = ()
    """Names of claims on which its runs turned out to be none either way, as an arm diverged."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Paired over arms; none is among the search's."""

    @property
    def searched(self) -> tuple[Recipe, ...]:
        """The arms that are tuned."""
        return tuple(arm for arm in self.arms if arm.label not in self.settings_of)

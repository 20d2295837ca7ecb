"""What changes over a run: learning rate, weight decay, and the weight of the distillation loss."""

from codistill import schedules
from codistill.lab.recipe import Recipe
from codistill.schedules import Schedule


def learning_rate(recipe: Recipe, peer: str) -> Schedule:
    """Return the learning rate of a peer at each update.

    After a warm-up in a straight line it follows the recipe's course: multiplied by a factor at each drop,
    half a cosine or a straight line down to 0 (from the end of the warm-up to the end of the run), the
    inverse square root of the update (Vaswani et al. 2017, section 5.3; flat up to the end of the warm-up),
    or not at all.
    """
    peak = recipe.learning_rate_of(peer)
    warmup, rest = recipe.warmup_steps, max(recipe.updates - recipe.warmup_steps, 1)
    course: Schedule
    if recipe.learning_rate_course == "step":
        course = _at_drops(recipe, peak, _powers(recipe, recipe.learning_rate_factor))
    elif recipe.learning_rate_course == "cosine":
        course = schedules.Cosine(peak, 0.0, rest, warmup)
    elif recipe.learning_rate_course == "linear":
        course = schedules.Linear(peak, 0.0, rest, warmup)
    elif recipe.learning_rate_course == "inverse_square_root":
        flat = max(warmup, 1)
        course = lambda step: peak * (flat / max(step + 1, flat)) ** 0.5  # noqa: E731 - one of five courses
    else:
        course = schedules.Constant(peak)
    if warmup == 0:
        return course
    rise = schedules.Linear(recipe.warmup_from * peak, peak, warmup)
    # The first update is made with a step of the rise too: at 0 it would be wasted.
    return lambda step: rise(step + 1) if step < warmup else course(step)


def weight_decay(recipe: Recipe) -> Schedule:
    """Return the weight decay at each update: it falls when the learning rate drops (Sodhani et al., 3.2)."""
    if recipe.weight_decays:
        return schedules.AtDrops(
            recipe.weight_decay, dict(zip(drop_steps(recipe), recipe.weight_decays, strict=True))
        )
    return _at_drops(recipe, recipe.weight_decay, _powers(recipe, recipe.weight_decay_factor))


def distillation_weight(recipe: Recipe, *, epoch_steps: int) -> Schedule:
    """Return the weight of the distillation loss at each update, burn-in apart.

    Constant, or a sum added at each drop of the learning rate (Sodhani et al., A.1: 1, 1.5, 2, 2.5), or
    multiplied by a factor each epoch (A.3: 1.1).

    Args:
        recipe: The recipe.
        epoch_steps: Updates in which a peer goes through its data once.
    """
    initial, maximum = recipe.distillation_weight, recipe.distillation_weight_maximum
    if recipe.distillation_weight_factor != 1.0 and initial > 0:
        return schedules.Exponential(initial, recipe.distillation_weight_factor, epoch_steps, maximum)
    added = recipe.distillation_weight_added
    values = {
        step: initial + added * number for number, step in enumerate(drop_steps(recipe), start=1) if added
    }
    if maximum is not None:
        values = {step: min(value, maximum) for step, value in values.items()}
    return schedules.AtDrops(initial, values)


def drop_steps(recipe: Recipe) -> tuple[int, ...]:
    """Return the updates from which each drop of the learning rate holds."""
    return tuple(round(fraction * recipe.updates) for fraction in recipe.learning_rate_drops)


def _powers(recipe: Recipe, factor: float) -> list[float]:
    return [factor**number for number in range(1, len(recipe.learning_rate_drops) + 1)]


def _at_drops(recipe: Recipe, initial: float, factors: list[float]) -> schedules.AtDrops:
    steps = drop_steps(recipe)
    return schedules.AtDrops(
        initial, {step: initial * factor for step, factor in zip(steps, factors, strict=True)}
    )

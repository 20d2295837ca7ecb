"""Two peers on scikit-learn's digits: a second or two, for trying things out."""

from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Entry

RECIPE = Recipe(
    name="digits",
    summary="Two small networks on 8 x 8 scans of digits with noisy labels; a few seconds.",
    task="digits",
    method="codistillation",
    peers=2,
    updates=1500,
    batch_size=64,
    learning_rate=0.1,
    learning_rate_drops=(0.5, 0.75),
    weight_decay=3e-3,
    interval_steps=10,
    evaluate_every=50,
)

ENTRIES = (
    Entry(
        recipe=RECIPE,
        paper="",
        place="",
        rows=(),
        scale="lab",
        reproduces="that all works; the demo compares seven more ways of training on these data.",
        deviations=("one label in five is wrong, so that a second opinion is worth something.",),
    ),
)

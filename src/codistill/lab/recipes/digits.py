"""Two peers on scikit-learn's digits: a second or two, for trying things out."""

from codistill.lab.recipe import Recipe

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

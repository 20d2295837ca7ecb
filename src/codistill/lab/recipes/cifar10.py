"""Two peers on CIFAR-10, for trying things out on photographs.

In the setting of Sodhani et al., whose experiments are in `codistill.lab.recipes.sodhani2020`. Kept: equal
samples and updates in both arms, step-wise learning rate, no burn-in, weight decay lowered when the learning
rate drops (section 3.2).
"""

from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Entry

RECIPE = Recipe(
    name="cifar10",
    summary="Two ResNet-8 on CIFAR-10 photographs; minutes on a laptop.",
    task="cifar10",
    method="codistillation",
    peers=2,
    ranks=2,
    updates=2000,
    batch_size=128,
    learning_rate=0.1,
    learning_rate_drops=(0.5, 0.75),
    weight_decay=5e-4,
    weight_decay_factor=0.1,
    interval_steps=50,
    evaluate_every=200,
    checkpoint_every=200,
)

ENTRIES = (
    Entry(
        recipe=RECIPE,
        paper="",
        place="",
        rows=(),
        scale="lab",
        reproduces="codistillation beside all_reduce at equal samples and updates, on photographs.",
        deviations=(
            "KL in place of the squared error between logits of Sodhani et al., and a constant weight.",
            "no warm-up; two drops in place of three.",
        ),
    ),
)

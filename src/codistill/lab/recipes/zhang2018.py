"""Deep Mutual Learning: Zhang, Xiang, Hospedales, Lu (CVPR 2018).

Several models on the same batches, each learning from all others at once (D1 to D6 are pairs of models). The
rows of models trained alone are these recipes with ``--method alone``.
"""

from dataclasses import replace

from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Scale, Sweep
from codistill.lab.recipes.epochs import Epochs
from codistill.lab.recipes.variant import Setting, Variant, entries

PAPER = "Zhang et al. 2018 (arXiv:1706.00384)"

RUN = Epochs(batch_size=64, epochs=200, drops=(60, 120, 180))
"""Of every model; CIFAR-100 in the paper."""
CIFAR_SAMPLES = 45_000

_LAB_UPDATES = 900
_SIMULTANEOUS = (
    "all models are updated at once, from what all had before; the paper updates one after another."
)

_PAPER_SCALE = Recipe(
    name="zhang2018",
    task="cifar10",
    model="resnet32",
    method="mutual",
    regime="same_batches",
    peers=2,
    ranks=1,
    updates=RUN.updates(CIFAR_SAMPLES),
    batch_size=2 * RUN.batch_size,
    optimizer="nesterov",
    learning_rate=0.1,
    learning_rate_drops=tuple(drop / RUN.epochs for drop in RUN.drops),
    weight_decay=5e-4,
    distillation_loss="kl",
    evaluate_every=703,
    checkpoint_every=7030,
)
_SETTINGS: dict[Scale, Setting] = {
    "paper": Setting(
        recipe=_PAPER_SCALE,
        deviations=(
            "CIFAR-10, as JPEG files, in place of CIFAR-100; a tenth of the training images validates.",
            _SIMULTANEOUS,
        ),
        unverified=("the recipe is second-hand: SGD, 0.1 times 0.1 every 60 of 200 epochs, batches of 64.",),
        ours=("weight decay of 5e-4.",),
    ),
    "lab": Setting(
        recipe=replace(
            _PAPER_SCALE,
            model="resnet8",
            updates=_LAB_UPDATES,
            evaluate_every=_LAB_UPDATES // 3,
            checkpoint_every=_LAB_UPDATES // 3,
        ),
        deviations=(
            f"CIFAR-10 in place of CIFAR-100; {_LAB_UPDATES} updates in place of 140,625.",
            "ResNet-8 for ResNet-32, WRN-16-1 for WRN-28-10, a MobileNet of a quarter of the width.",
            _SIMULTANEOUS,
        ),
        unverified=("the recipe is second-hand: SGD, 0.1 times 0.1 every 60 of 200 epochs, batches of 64.",),
        ours=("weight decay of 5e-4.",),
    ),
}

_LAB_MODELS = {"resnet32": ("resnet8", 16), "mobilenet": ("mobilenet", 8), "wrn28_10": ("wrn16_2", 16)}
"""What stands for a model of the paper on a laptop, and its width."""


def _pair(row: str, models: tuple[str, str], *, summary: str, reproduces: str) -> Variant:
    stand_ins = [_LAB_MODELS[model] for model in models]
    return Variant(
        key=row.lower(),
        place="CIFAR-100",
        rows=(row,),
        summary=summary,
        reproduces=reproduces,
        changes_at={
            "paper": {"peer_models": models},
            "lab": {
                "peer_models": tuple(name for name, _ in stand_ins),
                "peer_widths": tuple(width for _, width in stand_ins),
            },
        },
    )


_VARIANTS = (
    _pair(
        "D1",
        ("resnet32", "resnet32"),
        summary="ResNet-32 and ResNet-32",
        reproduces="68.99 alone, 71.19 and 70.75 together; a replication has 69.56 and 70.95.",
    ),
    _pair(
        "D2",
        ("wrn28_10", "resnet32"),
        summary="WRN-28-10 and ResNet-32",
        reproduces="78.69 and 68.99 alone, 78.96 and 70.73 together.",
    ),
    _pair(
        "D3",
        ("mobilenet", "resnet32"),
        summary="MobileNet and ResNet-32",
        reproduces="73.65 and 68.99 alone, 76.13 and 71.10 together.",
    ),
    _pair(
        "D4",
        ("mobilenet", "mobilenet"),
        summary="MobileNet and MobileNet",
        reproduces="73.65 alone, 76.21 and 76.10 together.",
    ),
    _pair(
        "D5",
        ("wrn28_10", "mobilenet"),
        summary="WRN-28-10 and MobileNet",
        reproduces="78.69 and 73.65 alone, 80.28 and 77.39 together; in a replication the WRN loses 2.27.",
    ),
    _pair(
        "D6",
        ("wrn28_10", "wrn28_10"),
        summary="WRN-28-10 and WRN-28-10",
        reproduces="78.69 alone, 80.28 and 80.08 together; a replication has 78.76 and 80.04.",
    ),
    Variant(
        key="cohort",
        place="section 3.6, Fig. 2",
        rows=(),
        summary="two to five models of one kind",
        reproduces="accuracy rises with the number of models; the mean of separate KL terms is better than "
        "KL from the mean of all others' probabilities.",
        sweep_at={
            scale: (
                Sweep(field="peers", values=(2, 3, 4, 5), along={"batch_size": (128, 192, 256, 320)}),
                Sweep(field="combine", values=("losses", "probabilities")),
            )
            for scale in _SETTINGS
        },
        unverified=("what the figure shows is second-hand.",),
    ),
)

ENTRIES = tuple(entries(PAPER, _SETTINGS, _VARIANTS))

"""Online-Codistillation Meets LARS: Murai, Mikami, Koyama, Suzuki, Akiba (DLS workshop at SC20).

Settings are those of the authors' code; the paper and its numbers were not at hand. Of its three variants,
``original`` exchanges weights and ``equalize_data`` predictions on equal batches; ``overlap`` computes the
same as ``original`` in less time and has no recipe. Tiny-ImageNet needs a ResNet-18v2, which no task has, so
that its settings are at the scale of a laptop only; BERT is not there.
"""

from dataclasses import replace

from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Scale
from codistill.lab.recipes.epochs import IMAGENET_SAMPLES, Epochs, equal_ranks
from codistill.lab.recipes.scaling import goyal2017, legw
from codistill.lab.recipes.variant import Setting, Variant, entries

PAPER = "Murai et al. 2020 (DLS workshop at SC20)"

BURN_IN = 0.4
"""Share of the run: 28 of 70 epochs on ImageNet, 36 of 90 on Tiny-ImageNet."""
RANKS = 512
ALL_RANKS = Epochs(batch_size=64 * RANKS, epochs=140)
"""One model on all ranks, 64 samples each: 70 epochs of each team are 140 of one model."""
TEAM = equal_ranks(ALL_RANKS, peers=2)

_LAB_BATCH = 256
_LAB_UPDATES = 500

_NO_STATISTICS = (
    "teachers predict in evaluation mode with running statistics, where the code's use the batch."
)
_OURS = (
    "how many ranks there are, and that learning rates follow from the batch of a team.",
    "SGD's momentum of 0.9.",
)

_BASE = Recipe(
    name="sc20",
    task="imagenet",
    peers=2,
    optimizer="lars",
    weight_decay=1e-4,
    decays_norms_and_biases=False,
    label_smoothing=0.1,
    distillation_loss="reverse_kl",
    interval_steps=50,
    learning_rate_drops=(),
)
_PAPER_COURSE = legw(TEAM, samples=IMAGENET_SAMPLES)
_LAB_COURSE = legw(replace(TEAM, batch_size=_LAB_BATCH), samples=IMAGENET_SAMPLES, updates=_LAB_UPDATES)
_SETTINGS: dict[Scale, Setting] = {
    "paper": Setting(
        recipe=replace(
            _BASE,
            model="resnet50",
            ranks_per_peer=RANKS // 2,
            ranks=RANKS,
            batch_size=ALL_RANKS.batch_size,
            precision="bfloat16",
            burn_in_steps=int(BURN_IN * _PAPER_COURSE["updates"]),
            evaluate_every=IMAGENET_SAMPLES // TEAM.batch_size,
            checkpoint_every=IMAGENET_SAMPLES // TEAM.batch_size,
            **_PAPER_COURSE,
        ),
        deviations=(
            "bfloat16 in place of float16 with a loss scale of 8.",
            "a fiftieth of the training images is held out.",
            _NO_STATISTICS,
        ),
        ours=_OURS,
    ),
    "lab": Setting(
        recipe=replace(
            _BASE,
            task="cifar10",
            model="resnet8",
            ranks=2,
            batch_size=2 * _LAB_BATCH,
            burn_in_steps=int(BURN_IN * _LAB_UPDATES),
            interval_steps=10,
            evaluate_every=_LAB_UPDATES // 5,
            checkpoint_every=_LAB_UPDATES // 5,
            **_LAB_COURSE,
        ),
        deviations=(
            f"ResNet-8 on CIFAR-10, {_LAB_UPDATES} updates of {_LAB_BATCH} samples a peer, in float32.",
            "an exchange every 10 updates instead of 50.",
            _NO_STATISTICS,
        ),
        ours=_OURS,
    ),
}
_VARIANTS = (
    Variant(
        key="imagenet",
        place="variant original",
        rows=("SC20",),
        summary="LARS and weights of the other team",
        reproduces="that LARS with codistillation is better than either alone at large batches.",
    ),
    Variant(
        key="imagenet-predictions",
        place="variant equalize_data",
        rows=("SC20",),
        summary="LARS and predictions on equal batches",
        reproduces="the same without a second model in memory, and faster.",
        changes={"method": "codistillation_predictions", "regime": "same_batches"},
        deviations=("batches are equal from the start; the code's are after the burn-in only.",),
    ),
    Variant(
        key="imagenet-baseline",
        place="variant original",
        rows=("SC20",),
        summary="LARS alone: all_reduce",
        reproduces="what codistillation is held against.",
        changes={"method": "all_reduce", "peers": 1, "ranks_per_peer": None},
        changes_at={
            "paper": legw(ALL_RANKS, samples=IMAGENET_SAMPLES),
            "lab": legw(
                replace(ALL_RANKS, batch_size=2 * _LAB_BATCH), samples=IMAGENET_SAMPLES, updates=_LAB_UPDATES
            ),
        },
    ),
)

_TINY = Epochs(batch_size=64, epochs=90, warmup=5)
_TINY_UPDATES = 1800
_TINY_SETTING: dict[Scale, Setting] = {
    "lab": Setting(
        recipe=Recipe(
            name="sc20",
            task="cifar10",
            model="resnet8",
            peers=2,
            ranks=2,
            batch_size=2 * _TINY.batch_size,
            weight_decay=5e-4,
            distillation_loss="reverse_kl",
            burn_in_steps=int(BURN_IN * _TINY_UPDATES),
            interval_steps=50,
            evaluate_every=_TINY_UPDATES // 6,
            checkpoint_every=_TINY_UPDATES // 6,
            **goyal2017(_TINY, samples=100_000, updates=_TINY_UPDATES, reference=64, course="cosine"),
        ),
        deviations=(
            f"ResNet-8 on CIFAR-10, {_TINY_UPDATES} updates, in place of ResNet-18v2 on Tiny-ImageNet.",
            "the learning rate is 0.1 for 64 samples instead of 256.",
            _NO_STATISTICS,
        ),
        ours=("SGD's momentum of 0.9; that the warm-up begins at 0.1 for any batch.",),
    )
}
_ON_TINY = (
    Variant(
        key="tiny",
        place="Tiny-ImageNet",
        rows=("SC20",),
        summary="SGD along a cosine, 40% burn-in",
        reproduces="that codistillation helps; the numbers were not found.",
    ),
)

ENTRIES = (*entries(PAPER, _SETTINGS, _VARIANTS), *entries(PAPER, _TINY_SETTING, _ON_TINY))

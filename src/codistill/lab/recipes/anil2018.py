"""Large scale distributed neural network training through online distillation: Anil, Pereyra, Passos, et al.

Only the abstract and what others write about the paper were at hand: numbers are tagged accordingly. A1 to A7
train language models on Common Crawl, A8 is ImageNet, A9 Criteo's Display Advertising Challenge. A10 and A11
are about the data themselves: there is nothing to train.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Scale, Sweep
from codistill.lab.recipes.epochs import IMAGENET_SAMPLES, Epochs, equal_ranks
from codistill.lab.recipes.scaling import goyal2017
from codistill.lab.recipes.variant import Setting, Variant, entries

PAPER = "Anil et al. 2018 (arXiv:1804.03235)"

_WORKERS = 128
_WORKER_BATCH = 128
_STEPS = 10_000
_LAB_UPDATES = 2000

_ALL_REDUCE = {"method": "all_reduce", "peers": 1, "ranks_per_peer": None, "regime": "all_data"}
_OURS = (
    "optimizer settings other than those listed, the course of the learning rate and the updates.",
    "the length of the burn-in.",
)

_LANGUAGE: dict[Scale, Setting] = {
    "paper": Setting(
        recipe=Recipe(
            name="anil2018",
            task="text_folder",
            model="lstm_2x1024",
            method="codistillation_disjoint",
            regime="disjoint",
            peers=2,
            ranks_per_peer=_WORKERS,
            ranks=_WORKERS,
            updates=_STEPS,
            batch_size=2 * _WORKERS * _WORKER_BATCH,
            optimizer="adam",
            learning_rate=1e-3,
            learning_rate_course="constant",
            learning_rate_drops=(),
            warmup_steps=500,
            weight_decay=0.0,
            gradient_clip=1.0,
            distillation_loss="soft_cross_entropy",
            burn_in_steps=1000,
            interval_steps=50,
            evaluate_every=100,
            checkpoint_every=500,
        ),
        deviations=(
            "text of your own in place of 20 TB of Common Crawl.",
            "windows of 128 pieces, each from a state of zero; no layer normalisation in the LSTM.",
        ),
        unverified=(
            "1024 units a layer, 24,006 pieces of words, Adam.",
            "128 samples an update of each worker.",
            "10,000 updates under codistillation (by second hand).",
        ),
        ours=_OURS,
    ),
    "lab": Setting(
        recipe=Recipe(
            name="anil2018",
            task="wikitext2",
            model="lstm",
            method="codistillation_disjoint",
            regime="disjoint",
            peers=2,
            ranks=2,
            updates=_LAB_UPDATES,
            batch_size=32,
            optimizer="adam",
            learning_rate=2e-3,
            learning_rate_course="constant",
            learning_rate_drops=(),
            warmup_steps=100,
            weight_decay=0.0,
            gradient_clip=1.0,
            distillation_loss="soft_cross_entropy",
            burn_in_steps=200,
            interval_steps=50,
            evaluate_every=200,
            checkpoint_every=200,
        ),
        deviations=(
            "WikiText-2 with 10,000 words in place of Common Crawl; an LSTM of one layer of 128 units.",
            f"one rank a peer in place of 128, {_LAB_UPDATES} updates of 16 windows of 32 words.",
        ),
        unverified=("that the optimizer is Adam.",),
        ours=_OURS,
    ),
}


def _workers(batch: int, *, ranks: tuple[int, ...] | None = None) -> tuple[Sweep, ...]:
    """Return 32 to 256 workers of so many samples each, on ranks of their own if given."""
    workers = (32, 64, 128, 256)
    if ranks is None:
        return (Sweep(field="batch_size", values=tuple(batch * one // 32 for one in workers)),)
    return (Sweep(field="ranks", values=ranks, along={"batch_size": tuple(batch * one for one in ranks)}),)


_ON_TEXT = (
    Variant(
        key="a1",
        place="language model",
        rows=("A1", "A2"),
        summary="one model on 128 workers",
        reproduces="fewer steps with 32, 64, 128 workers, no further gain with 256. 128 workers are what "
        "codistillation is held against: cross entropy 3.92 (which run that is, is unclear).",
        changes=_ALL_REDUCE,
        changes_at={
            "paper": {"batch_size": _WORKERS * _WORKER_BATCH, "updates": 2 * _STEPS},
            "lab": {"batch_size": 16, "updates": 2 * _LAB_UPDATES},
        },
        sweep_at={
            "paper": _workers(_WORKER_BATCH, ranks=(32, 64, 128, 256)),
            "lab": _workers(8),
        },
        ours=("twice the updates of codistillation, which is said to halve them.",),
        deviations_at={"lab": ("a batch of 8, 16, 32 and 64 stands for 32 to 256 workers; two ranks.",)},
    ),
    Variant(
        key="a2",
        place="language model",
        rows=("A2", "A2b", "A5"),
        summary="two peers on half the data each",
        reproduces="the error of synchronous SGD on 128 workers in half the steps; cross entropy 3.91; close "
        "to an ensemble of two (A3), and better than on the same data (A5).",
        ours=("that the models see disjoint halves, as in A5.",),
    ),
    Variant(
        key="a3",
        place="language model",
        rows=("A3",),
        summary="an ensemble of two",
        reproduces="validation cross entropy that codistillation comes close to with one model.",
        changes={"method": "ensemble", "ranks_per_peer": None, "regime": "all_data"},
        deviations_at={"paper": ("each model is trained on one rank.",)},
        ours=("that each model sees all data.",),
    ),
    Variant(
        key="a4-uniform",
        place="language model",
        rows=("A4",),
        summary="labels smoothed evenly",
        reproduces="less than codistillation gives: it is not label smoothing.",
        changes={**_ALL_REDUCE, "method": "label_smoothing", "label_smoothing": 0.1},
        changes_at={
            "paper": {"batch_size": _WORKERS * _WORKER_BATCH, "updates": _STEPS},
            "lab": {"batch_size": 16},
        },
        sweep_at={scale: (Sweep(field="label_smoothing", values=(0.01, 0.05, 0.1)),) for scale in _LANGUAGE},
        ours=("the shares that are smoothed.",),
    ),
    Variant(
        key="a4-unigram",
        place="language model",
        rows=("A4",),
        summary="labels smoothed by frequency",
        reproduces="less than codistillation gives: it is not label smoothing.",
        changes={
            **_ALL_REDUCE,
            "method": "unigram_smoothing",
            "label_smoothing": 0.1,
            "smoothing_prior": "unigram",
        },
        changes_at={
            "paper": {"batch_size": _WORKERS * _WORKER_BATCH, "updates": _STEPS},
            "lab": {"batch_size": 16},
        },
        sweep_at={scale: (Sweep(field="label_smoothing", values=(0.01, 0.05, 0.1)),) for scale in _LANGUAGE},
        unverified=("that the paper smooths towards the unigram distribution.",),
        ours=("the shares that are smoothed.",),
    ),
    Variant(
        key="a5",
        place="language model",
        rows=("A5",),
        summary="two peers on the same half",
        reproduces="only slightly better than the baseline; A2 on disjoint halves is clearly better.",
        changes={"method": "codistillation_same_data", "regime": "all_data", "data_fraction": 0.5},
    ),
    Variant(
        key="a6",
        place="language model",
        rows=("A6",),
        summary="two teachers, then a student",
        reproduces="27,000 steps in all, where codistillation needs 10,000.",
        changes={"method": "two_phase", "regime": "all_data", "burn_in_steps": 0},
        changes_at={
            "paper": {"updates": 9000, "teacher_updates": 18_000, "ranks_per_peer": 2 * _WORKERS},
            "lab": {"updates": 1800, "teacher_updates": 3600},
        },
        deviations_at={"paper": ("each teacher is trained on one rank, the student on those of both.",)},
        ours=("that a third of the steps is the student's, and that there are two teachers.",),
    ),
    Variant(
        key="a7",
        place="language model",
        rows=("A7",),
        summary="exchange interval",
        reproduces="50 steps are best; slightly worse curves at 100 and 250; hardly any effect at the end.",
        sweep_at={scale: (Sweep(field="interval_steps", values=(50, 100, 250)),) for scale in _LANGUAGE},
    ),
    Variant(
        key="a7b",
        place="language model",
        rows=("A7b",),
        summary="very old teachers",
        reproduces="hardly any effect of predictions that are tens of thousands of steps old.",
        changes={"lockstep": False},
        changes_at={
            "paper": {"interval_steps": 20_000, "updates": 100_000},
            "lab": {"interval_steps": 500},
        },
        deviations=(
            "peers do not wait for one another; within a peer SGD is synchronous, the paper's is not.",
        ),
        deviations_at={"lab": ("a quarter of the run stands for tens of thousands of steps.",)},
        ours=("data, model and updates.",),
    ),
)

SYNC = Epochs(batch_size=32_768, epochs=180, warmup=10, drops=(60, 120, 160))
"""One ResNet-50 in as many steps as two have that do 90 epochs each."""
_IMAGENET_PEER = equal_ranks(SYNC, peers=2)
_IMAGENET_RANKS = 256
_LAB_IMAGE_BATCH = 256
_LAB_IMAGE_UPDATES = 600


def _lab_images(run: Epochs) -> Mapping[str, Any]:
    run = replace(run, batch_size=run.batch_size * _LAB_IMAGE_BATCH // _IMAGENET_PEER.batch_size)
    return goyal2017(run, samples=IMAGENET_SAMPLES, updates=_LAB_IMAGE_UPDATES, reference=64)


_IMAGES_RECIPE = Recipe(
    name="anil2018",
    task="imagenet",
    peers=2,
    optimizer="nesterov",
    weight_decay=1e-4,
    decays_norms_and_biases=False,
    distillation_loss="soft_cross_entropy",
    interval_steps=50,
)
_IMAGES_OURS = (
    "that the models see all data, and are exchanged every 50 steps.",
    "90 epochs of each model, and as many steps of the baseline.",
)
_GOYAL = "Goyal et al. (2017) use Nesterov's momentum, and let norms and biases not decay."
_IMAGES: dict[Scale, Setting] = {
    "paper": Setting(
        recipe=replace(
            _IMAGES_RECIPE,
            model="resnet50",
            ranks_per_peer=_IMAGENET_RANKS,
            ranks=2 * _IMAGENET_RANKS,
            batch_size=2 * _IMAGENET_PEER.batch_size,
            burn_in_steps=3000,
            evaluate_every=250,
            checkpoint_every=250,
            **goyal2017(_IMAGENET_PEER, samples=IMAGENET_SAMPLES),
        ),
        deviations=("a fiftieth of the training images is held out.",),
        unverified=("16,384 samples an update of each model, where second hands have 16k.", _GOYAL),
        ours=(*_IMAGES_OURS, f"{_IMAGENET_RANKS} ranks a peer, 64 images each."),
    ),
    "lab": Setting(
        recipe=replace(
            _IMAGES_RECIPE,
            task="cifar10",
            model="resnet8",
            ranks=2,
            batch_size=2 * _LAB_IMAGE_BATCH,
            burn_in_steps=_LAB_IMAGE_UPDATES * 3000 // 6896,
            interval_steps=10,
            evaluate_every=100,
            checkpoint_every=100,
            **_lab_images(_IMAGENET_PEER),
        ),
        deviations=(
            f"ResNet-8 on CIFAR-10, {_LAB_IMAGE_UPDATES} updates of {_LAB_IMAGE_BATCH} samples a peer.",
            "the burn-in has the paper's share of the run.",
            "the learning rate is 0.1 for 64 samples instead of 256.",
        ),
        unverified=(_GOYAL,),
        ours=(*_IMAGES_OURS, "an exchange every 10 updates."),
    ),
}

_ON_IMAGES = (
    Variant(
        key="a8",
        place="ImageNet",
        rows=("A8",),
        summary="two models with large batches",
        reproduces="substantially better than synchronous SGD with the batch of both together; 75% top-1 in "
        "fewer steps.",
        unverified=("75% top-1 after 5250 steps instead of 7250.",),
    ),
    Variant(
        key="a8-baseline",
        place="ImageNet",
        rows=("A8",),
        summary="all_reduce, batch of both",
        reproduces="what A8 is held against.",
        changes=_ALL_REDUCE,
        changes_at={"paper": goyal2017(SYNC, samples=IMAGENET_SAMPLES), "lab": _lab_images(SYNC)},
    ),
)

_CRITEO_TRAIN = 36_672_493
_CLICKS_RECIPE = Recipe(
    name="anil2018",
    task="criteo",
    peers=2,
    optimizer="adagrad",
    learning_rate_course="constant",
    learning_rate_drops=(),
    weight_decay=0.0,
    distillation_loss="bernoulli_kl",
)
_CLICKS_OURS = (
    "embeddings of 8 numbers, hashed buckets, the split, one pass over the data, and the interval.",
    "KL between coins, which is the cross entropy with soft targets but for the teacher's entropy.",
)
_CLICKS: dict[Scale, Setting] = {
    "paper": Setting(
        recipe=replace(
            _CLICKS_RECIPE,
            model="paper",
            ranks=1,
            updates=_CRITEO_TRAIN // 1024,
            batch_size=2 * 1024,
            learning_rate=1e-3,
            burn_in_steps=1000,
            interval_steps=50,
            evaluate_every=2000,
            checkpoint_every=2000,
        ),
        unverified=("hidden layers of 2560, 1024 and 256 units; Adagrad with 0.001; batches of 1024.",),
        ours=(*_CLICKS_OURS, "a burn-in of 1000 updates."),
    ),
    "lab": Setting(
        recipe=replace(
            _CLICKS_RECIPE,
            task="diabetes130",
            model="small",
            ranks=1,
            updates=2000,
            batch_size=2 * 256,
            learning_rate=0.01,
            burn_in_steps=200,
            interval_steps=50,
            evaluate_every=200,
            checkpoint_every=200,
        ),
        deviations=(
            "hospital stays of diabetes130, 71,352 to train on, in place of 37 million advertisements.",
            "hidden layers of 128 and 64 units; Adagrad with 0.01; batches of 256, seven passes.",
        ),
        unverified=("that the optimizer is Adagrad.",),
        ours=_CLICKS_OURS,
    ),
}
_ADULT: dict[Scale, Setting] = {
    "lab": replace(
        _CLICKS["lab"],
        recipe=replace(_CLICKS["lab"].recipe, task="adult"),
        deviations=(
            "answers to a census, 29,305 to train on, in place of 37 million advertisements.",
            "hidden layers of 128 and 64 units; Adagrad with 0.01; batches of 256, seventeen passes.",
        ),
    )
}
_CHURN = "the mean absolute difference between the predictions of two retrainings: give it several seeds."
_ONE_MODEL = {"method": "all_reduce", "peers": 1, "ranks_per_peer": None, "ranks": 1}
_ON_CLICKS = (
    Variant(
        key="a9",
        place="Criteo",
        rows=("A9",),
        summary="two click models: less churn",
        reproduces=f"0.019 for {_CHURN} 35% less than one model, about as an ensemble.",
    ),
    Variant(
        key="a9-single",
        place="Criteo",
        rows=("A9",),
        summary="one click model",
        reproduces=f"about 0.029, which follows from the 35%, for {_CHURN}",
        changes=_ONE_MODEL,
        changes_at={"paper": {"batch_size": 1024}, "lab": {"batch_size": 256}},
    ),
    Variant(
        key="a9-ensemble",
        place="Criteo",
        rows=("A9",),
        summary="two click models, averaged",
        reproduces=f"perhaps 0.022, if that number is the ensemble's, for {_CHURN}",
        changes={"method": "ensemble"},
        unverified=("which row of the survey 0.022 stands in.",),
    ),
)
_ON_ADULT = (
    Variant(
        key="a9-adult",
        place="Criteo",
        rows=("A9",),
        summary="two click models on a census",
        reproduces=f"0.019 for {_CHURN}",
    ),
)

ENTRIES = (
    *entries(PAPER, _LANGUAGE, _ON_TEXT),
    *entries(PAPER, _IMAGES, _ON_IMAGES),
    *entries(PAPER, _CLICKS, _ON_CLICKS),
    *entries(PAPER, _ADULT, _ON_ADULT),
)

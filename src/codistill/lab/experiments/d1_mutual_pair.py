"""D1: two networks that learn from each other on the same batches, against one alone (Zhang et al. 2018)."""

from dataclasses import replace

from codistill.lab.claims import Claim
from codistill.lab.experiments.base import Experiment
from codistill.lab.recipe import Recipe
from codistill.lab.search_space import SearchSpace

_ALONE = Recipe(
    name="d1",
    task="cifar10",
    method="alone",
    arm="alone",
    summary="one network, 32 samples an update",
    peers=1,
    peer_widths=(8,),
    data_fraction=1 / 16,
    updates=600,
    batch_size=32,
    optimizer="nesterov",
    learning_rate_drops=(0.5, 0.75),
    evaluate_every=150,
)

EXPERIMENT = Experiment(
    name="D1",
    paper="Zhang et al. 2018, Table 2 (row D1)",
    says="A pair of ResNet-32 on CIFAR-100 reaches 71.19 and 70.75 where each alone reaches 68.99.",
    regime=(
        "A sixteenth of CIFAR-10's training images (2,812) and ResNet-8 of width 8, which goes through them "
        "7 times: little, where the paper has 200 epochs."
    ),
    arms=(
        _ALONE,
        replace(
            _ALONE,
            arm="label_smoothing",
            label_smoothing=0.1,
            summary="the same with label smoothing 0.1: the cheapest regulariser",
        ),
        replace(
            _ALONE,
            arm="mutual",
            method="mutual",
            peers=2,
            peer_widths=(8, 8),
            batch_size=64,
            regime="same_batches",
            summary="two networks in one process on the same batches of 32",
        ),
    ),
    space=SearchSpace(learning_rates=(0.03, 0.1), weight_decays=(5e-4, 5e-3), seeds=(100,)),
    claims=(
        Claim(
            name="D1",
            arm="mutual",
            against="alone",
            metric="test_accuracy",
            says="each of a pair is better than one alone",
            expects="ahead",
            margin=1.0,
        ),
        Claim(
            name="D1, smoothing",
            arm="mutual",
            against="label_smoothing",
            metric="test_accuracy",
            says="and better than label smoothing makes it",
            expects="ahead",
            margin=1.0,
        ),
    ),
    deviations=(
        "CIFAR-10 in place of CIFAR-100, ResNet-8 of width 8 in place of ResNet-32, 600 updates",
        "both peers learn from what both were before the update; in the paper one after the other",
        "batches of 32, not 64; drops at 1/2 and 3/4",
    ),
)

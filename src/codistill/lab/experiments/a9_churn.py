"""A9: retrained click models disagree less when each was codistilled (Anil et al. 2018, section 4)."""

from dataclasses import replace

from codistill.lab.claims import Claim
from codistill.lab.experiments.base import Experiment
from codistill.lab.recipe import Recipe
from codistill.lab.search_space import SearchSpace

_ALONE = Recipe(
    name="a9",
    task="diabetes130",
    method="alone",
    arm="alone",
    summary="one model, 256 samples an update",
    peers=1,
    updates=1400,
    batch_size=256,
    optimizer="adamw",
    learning_rate_course="cosine",
    weight_decay=0.1,
    distillation_loss="bernoulli_kl",
    interval_steps=25,
    evaluate_every=200,
)

EXPERIMENT = Experiment(
    name="A9",
    paper="Anil et al. 2018, section 4 (row A9; single models' numbers are not in the sources)",
    says=(
        "Two retrainings of a click model differ by 35% less in their predictions when each was "
        "codistilled, which "
        "is about what an ensemble of two gains, at no cost when serving; log loss is about the ensemble's."
    ),
    regime=(
        "Hospital stays in place of clicks: counts, categories of many values, a label that can hardly be "
        "predicted. A network of 368,897 parameters goes through 71,352 rows five times."
    ),
    arms=(
        _ALONE,
        replace(
            _ALONE,
            arm="ensemble",
            method="ensemble",
            peers=2,
            batch_size=512,
            summary="two such models, the mean of their probabilities: twice the cost of a prediction",
        ),
        replace(
            _ALONE,
            arm="codistillation",
            method="codistillation",
            peers=2,
            batch_size=512,
            summary="two such models that teach each other; one of them predicts",
        ),
    ),
    space=SearchSpace(learning_rates=(3e-4, 1e-3, 3e-3), weight_decays=(0.01, 0.3), seeds=(100,)),
    claims=(
        Claim(
            name="A9",
            arm="codistillation",
            against="alone",
            metric="difference",
            says="retrainings differ less",
            expects="ahead",
            margin=0.2,
        ),
        Claim(
            name="A9, ensemble",
            arm="codistillation",
            against="ensemble",
            metric="difference",
            says="about as little as ensembles of two",
            expects="parity",
            margin=0.3,
        ),
        Claim(
            name="A9, log loss",
            arm="codistillation",
            against="alone",
            metric="test_nll",
            says="log loss is lower",
            expects="ahead",
            margin=0.001,
        ),
        Claim(
            name="A9, log loss of the ensemble",
            arm="codistillation",
            against="ensemble",
            metric="test_nll",
            says="log loss is that of the ensemble",
            expects="parity",
            margin=0.001,
        ),
    ),
    deviations=(
        "diabetes130 in place of Criteo's display ads; 128-64 units in place of 2560-1024-256 (unverified)",
        "AdamW in place of Adagrad (unverified)",
        "an interval of 25 updates in lockstep",
    ),
)

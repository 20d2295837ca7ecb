"""A5: peers on disjoint data learn more from one another than peers on the same (Anil et al. 2018)."""

from dataclasses import replace

from codistill.lab.claims import Claim
from codistill.lab.experiments.base import Experiment
from codistill.lab.recipe import Recipe
from codistill.lab.search_space import SearchSpace

_PEERS = Recipe(
    name="a5",
    task="shakespeare",
    model="lstm",
    data_fraction=0.2,
    method="codistillation",
    peers=2,
    updates=1500,
    batch_size=16,
    optimizer="adamw",
    learning_rate_course="cosine",
    warmup_steps=50,
    weight_decay=0.1,
    gradient_clip=1.0,
    interval_steps=25,
    burn_in_steps=150,
    evaluate_every=150,
)

EXPERIMENT = Experiment(
    name="A5",
    paper="Anil et al. 2018, section 3.3 (row A5)",
    says=(
        "Two language models that see disjoint halves of the data gain clearly more from "
        "codistillation than two "
        "that see the same half: soft targets carry what the student has never seen."
    ),
    regime=(
        "A fifth of the training text of Shakespeare's plays (3,137 windows of 64 characters), an LSTM of "
        "140,610 parameters; a model goes through its own half 7.7 times, so that it begins to overfit."
    ),
    arms=(
        replace(
            _PEERS,
            arm="half_alone",
            method="alone",
            peers=1,
            batch_size=8,
            data_fraction=0.1,
            summary="one model that sees half of the data",
        ),
        replace(
            _PEERS,
            arm="same_half",
            method="codistillation_same_data",
            summary="two peers that both see the same half",
        ),
        replace(
            _PEERS,
            arm="disjoint_halves",
            method="codistillation_disjoint",
            regime="disjoint",
            summary="two peers that each see another half",
        ),
    ),
    space=SearchSpace(learning_rates=(0.003, 0.01), weight_decays=(0.01, 0.1, 1.0), seeds=(100,)),
    claims=(
        Claim(
            name="A5",
            arm="disjoint_halves",
            against="same_half",
            metric="test_nll",
            says="disjoint data are better than the same data",
            expects="ahead",
            margin=0.01,
        ),
        Claim(
            name="A5, same",
            arm="same_half",
            against="half_alone",
            metric="test_nll",
            says="on the same data codistillation is slightly better than the baseline",
            expects="ahead",
            margin=0.01,
        ),
        Claim(
            name="A5, disjoint",
            arm="disjoint_halves",
            against="half_alone",
            metric="test_nll",
            says="on disjoint data it is better than the baseline",
            expects="ahead",
            margin=0.01,
        ),
    ),
    deviations=(
        "characters of plays in place of word pieces of Common Crawl; 140,610 parameters",
        "the halves are drawn window by window, so both have all plays",
        "KL in place of cross entropy on soft targets: the same gradient",
        "an interval of 25 updates in lockstep and burn-in of a tenth (the paper's burn-in is not known)",
    ),
)

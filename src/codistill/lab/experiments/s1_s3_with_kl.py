"""S1 and S3 with KL, where regularisation matters, and with the control of constant weight decay."""

from dataclasses import replace

from codistill.lab.claims import Claim
from codistill.lab.experiments.base import Experiment
from codistill.lab.experiments.s1_s3_regularisation import EXPERIMENT as WITH_LOGIT_MSE
from codistill.lab.search_space import SearchSpace

_ALL_REDUCE, _ALL_REDUCE_FALLING, _OUT_OF_THE_BOX, _LESS_REGULARISED = (
    replace(arm, name="s1-s3-kl", task="digits", distillation_loss="kl") for arm in WITH_LOGIT_MSE.arms
)

EXPERIMENT = Experiment(
    name="S1-S3-KL",
    paper=WITH_LOGIT_MSE.paper,
    says=WITH_LOGIT_MSE.says,
    regime=(
        "Handwritten digits, a fifth of the training labels replaced at random, 718 to learn from, a "
        "perceptron of 26,122 parameters that learns them all by heart if nothing hinders it: each peer goes "
        "through the data 67 times, and the best weight decay is far from none. KL in place of the squared "
        "error of logits, with which peers diverged in S1-S3."
    ),
    arms=(
        _ALL_REDUCE,
        _ALL_REDUCE_FALLING,
        _OUT_OF_THE_BOX,
        replace(
            _OUT_OF_THE_BOX, arm="constant", summary="two peers, weight decay constant, settings searched"
        ),
        _LESS_REGULARISED,
    ),
    space=SearchSpace(
        learning_rates=(0.03, 0.1, 0.3), weight_decays=(1e-4, 1e-3, 3e-3, 1e-2, 3e-2), seeds=(100, 101, 102)
    ),
    settings_of=WITH_LOGIT_MSE.settings_of,
    claims=(
        *(replace(claim, name=f"{claim.name}, KL") for claim in WITH_LOGIT_MSE.claims),
        Claim(
            name="S3 constant, KL",
            arm="less_regularised",
            against="constant",
            metric="test_accuracy",
            says="weight decay that falls does two peers good",
            expects="ahead",
            margin=0.5,
        ),
    ),
    deviations=(
        "digits with wrong labels and a perceptron in place of ImageNet and ResNet-50; no warm-up",
        "KL in place of the squared error of logits",
        "drops at 18, 38 and 44 of 45 parts of the training in all arms; in the paper all-reduce drops at a "
        "third, two thirds and eight ninths",
        "an interval of 10 updates in lockstep, not 2,500 running free",
        "learning rate and initial weight decay are searched for each arm, not the paper's; ten seeds",
    ),
    seeds=tuple(range(10)),
)

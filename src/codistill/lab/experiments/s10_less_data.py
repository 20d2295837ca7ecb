"""S10: the less data there are, the more two peers gain (Sodhani et al. 2020, section 4, Fig. 6)."""

from dataclasses import replace

from codistill.lab.claims import Claim
from codistill.lab.experiments.base import Experiment
from codistill.lab.recipe import Recipe
from codistill.lab.search_space import SearchSpace

_DIVISORS = (64, 16)
"""What the number of training images is divided by."""
_PLAIN = Recipe(
    name="s10",
    task="cifar10",
    method="all_reduce",
    peers=1,
    ranks=2,
    peer_widths=(8,),
    updates=500,
    batch_size=32,
    learning_rate_drops=(0.5, 0.75),
    interval_steps=20,
    evaluate_every=125,
)
_PEERS = replace(
    _PLAIN,
    method="codistillation",
    peers=2,
    peer_widths=(8, 8),
    weight_decay_factor=0.1,
    distillation_weight_added=0.5,
)

EXPERIMENT = Experiment(
    name="S10",
    paper="Sodhani et al. 2020, section 4, Fig. 6 (row S10)",
    says=(
        "On 1/k of ImageNet with as many updates, two peers are ahead of all-reduce, by more the fewer the "
        "data."
    ),
    regime=(
        "1/64 and 1/16 of CIFAR-10's training images (703 and 2,812) and a ResNet-8 of width 8, 19,954 "
        "parameters. Each peer goes through its images 11 and 2.8 times: it has seen enough of the former to "
        "overfit, and not of the latter."
    ),
    arms=tuple(
        replace(
            base,
            arm=f"{base.method}-{divisor}",
            data_fraction=1 / divisor,
            summary=f"{models} samples an update, 1/{divisor} of the data",
        )
        for divisor in _DIVISORS
        for base, models in ((_PLAIN, "one model, 32"), (_PEERS, "two peers of 16"))
    ),
    space=SearchSpace(learning_rates=(0.05, 0.15), weight_decays=(5e-4, 5e-3), seeds=(100,)),
    claims=tuple(
        Claim(
            name=f"S10, 1/{divisor}",
            arm=f"codistillation-{divisor}",
            against=f"all_reduce-{divisor}",
            metric="test_accuracy",
            says=f"two peers are ahead on 1/{divisor} of the data",
            expects="ahead",
            margin=1.0,
        )
        for divisor in _DIVISORS
    ),
    deviations=(
        "CIFAR-10 and ResNet-8 in place of ImageNet and ResNet-50; KL in place of logits' squared error",
        "500 updates of 32 samples, two fractions",
        "an interval of 20 updates in lockstep, not 2,500 running free",
        "learning rate and initial weight decay are searched for each arm and fraction (4 points, "
        "one seed); the "
        "peers' weight decay falls at the drops, that of all_reduce does not",
    ),
)

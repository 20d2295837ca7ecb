"""What the demo was set up to show, declared before it ran."""

from codistill.lab.claims import Claim

DEMO_CLAIMS: tuple[Claim, ...] = (
    Claim(
        arm="codistillation_2",
        against="all_reduce",
        metric="test_accuracy",
        says="two peers without all-reduce, the same samples",
    ),
    Claim(
        arm="codistillation_4",
        against="all_reduce",
        metric="test_accuracy",
        says="four peers without all-reduce, the same samples",
    ),
    Claim(
        arm="all_reduce_smoothing",
        against="all_reduce",
        metric="test_accuracy",
        says="what the cheapest regulariser does",
    ),
    Claim(
        arm="codistillation_2",
        against="all_reduce_smoothing",
        metric="test_accuracy",
        says="peers as a regulariser, against the cheapest one",
    ),
    Claim(
        arm="codistillation_halves",
        against="half_alone",
        metric="test_accuracy",
        says="knowledge of unseen data through predictions",
    ),
    Claim(
        arm="alone_2_ensemble",
        against="codistillation_2",
        metric="test_accuracy",
        says="the price to beat, at twice the cost of a prediction",
    ),
    Claim(
        arm="codistillation_2_free",
        against="codistillation_2",
        metric="test_accuracy",
        says="running free against lockstep, at the settings of lockstep; no direction expected",
    ),
    Claim(
        arm="codistillation_2",
        against="all_reduce",
        metric="churn",
        says="do retrained models agree more",
    ),
    Claim(
        arm="codistillation_4",
        against="all_reduce",
        metric="churn",
        says="do retrained models agree more with four peers",
    ),
)
"""The labels are those of `codistill.lab.recipes.demo`."""

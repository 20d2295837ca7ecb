import pytest
import torch

from codistill.agreement_meter import AgreementMeter
from codistill.exchange.base import PeerPrediction, Predictions
from codistill.losses import DenseTarget, Divergence, sample_top_k

DUE = 19
"""Optimizer steps done before the batch of the 20th step."""


def predictions(**targets):
    return Predictions(
        tuple(
            PeerPrediction(peer=peer, target=target, step=0, samples=0, sequence=(0, 0))
            for peer, target in targets.items()
        )
    )


def one_hot(*classes, width=3):
    return torch.nn.functional.one_hot(torch.tensor(classes), width).float()


def measured(logits, mask=None, *, divergence="kl", step=DUE, **targets):
    meter = AgreementMeter()
    meter.observe(Divergence(divergence), logits, predictions(**targets), mask, step=step)
    meter.read()
    return dict(meter.last)


def test_agreement_is_the_share_of_positions_with_the_same_class():
    logits = one_hot(0, 1, 2, 2)
    found = measured(logits, b=DenseTarget(one_hot(0, 1, 2, 0)), c=DenseTarget(-logits))
    assert found == {"b": 0.75, "c": 0.0}


def test_positions_that_the_mask_leaves_out_do_not_count():
    mask = torch.tensor([True, True, False, False])
    assert measured(one_hot(0, 1, 2, 2), mask, b=DenseTarget(one_hot(0, 2, 2, 2))) == {"b": 0.5}


def test_an_empty_mask_says_nothing():
    assert measured(one_hot(0, 1), torch.zeros(2, dtype=torch.bool), b=DenseTarget(one_hot(0, 1))) == {}


def test_one_logit_is_compared_by_its_sign():
    student, teacher = torch.tensor([1.0, -2.0, 0.5, -0.5]), torch.tensor([3.0, -0.1, -1.0, -1.0])
    assert measured(student, divergence="bernoulli_kl", b=DenseTarget(teacher)) == {"b": 0.75}


def test_a_sparse_target_is_compared_by_its_likeliest_class():
    torch.manual_seed(0)
    teacher = 5 * one_hot(0, 1, 2, 1, width=16)
    target = sample_top_k(teacher, k=4, sampled=2)
    assert measured(one_hot(0, 1, 2, 2, width=16), b=target) == {"b": 0.75}


def test_classes_may_be_in_another_dimension():
    logits = torch.stack([one_hot(0, 1), one_hot(2, 2)]).transpose(1, 2)
    other = torch.stack([one_hot(0, 1), one_hot(2, 0)]).transpose(1, 2)
    meter = AgreementMeter()
    divergence = Divergence("kl", class_dim=1)
    meter.observe(divergence, logits, predictions(b=DenseTarget(other)), None, step=DUE)
    meter.read()
    assert dict(meter.last) == {"b": 0.75}


def test_the_micro_batches_of_a_step_are_counted_together():
    meter, kl = AgreementMeter(), Divergence("kl")
    meter.observe(kl, one_hot(0), predictions(b=DenseTarget(one_hot(1))), None, step=DUE)
    meter.observe(kl, one_hot(0, 1, 2), predictions(b=DenseTarget(one_hot(0, 1, 2))), None, step=DUE)
    meter.read()
    assert dict(meter.last) == {"b": 0.75}


@pytest.mark.parametrize("step", [0, 18, 20])
def test_other_steps_cost_nothing_and_change_nothing(step):
    assert measured(one_hot(0), step=step, b=DenseTarget(one_hot(0))) == {}


def test_what_was_read_last_stays_but_is_read_once():
    meter = AgreementMeter()
    meter.observe(Divergence("kl"), one_hot(0), predictions(b=DenseTarget(one_hot(0))), None, step=DUE)
    assert [dict(meter.read()), dict(meter.read())] == [{"b": 1.0}, {}]
    assert dict(meter.last) == {"b": 1.0}


def test_what_cannot_be_compared_is_left_out():
    assert measured(one_hot(0, 1), b=DenseTarget(one_hot(0, 1, 2))) == {}

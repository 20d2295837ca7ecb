import pytest
import torch

from codistill.errors import PeerMismatchError
from codistill.exchange.base import DistillationSettings
from codistill.exchange.prediction.agreement import PredictionAgreement, SwapHeader
from codistill.exchange.prediction.codec import TopK, as_codec
from codistill.exchange.prediction.layout import PredictionLayout
from codistill.losses import Divergence
from codistill.parallel.counterparts import Counterparts
from codistill.schedules import AtDrops, Constant
from codistill.testing.peers import connect_peers, run_peers


def among_peers(function, count):
    """Return the error of each of some peers, None for those without."""
    groups = connect_peers(count, timeout_s=30)

    def run(name):
        counterparts = Counterparts(groups[int(name)])
        counterparts.connect()
        try:
            function(PredictionAgreement(counterparts), int(name))
        except PeerMismatchError as error:
            return error
        return None

    return list(run_peers(run, map(str, range(count))).values())


def settings(**changes):
    return DistillationSettings(**{"divergence": Divergence("kl"), "weight": Constant(1.0), **changes})


def agree_on(all_settings, *, codecs=None):
    codecs = codecs or ["exact"] * len(all_settings)
    return among_peers(
        lambda agreement, number: agreement.on_settings(
            as_codec(codecs[number]), all_settings[number], step=3
        ),
        len(all_settings),
    )


def test_equal_settings_agree():
    def weight(step):
        return [1.0, 0.5][step]  # fails at later steps, in all peers alike

    assert agree_on([settings(weight=weight), settings(weight=weight), settings(weight=weight)]) == [None] * 3
    assert agree_on([None, None]) == [None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": Divergence("reverse_kl")}, r"same distillation_loss, got .*'kl'.*'reverse_kl'.* at"),
        ({"divergence": Divergence("kl", temperature=2.0)}, r"temperature=1\.0.*temperature=2\.0"),
        ({"divergence": Divergence("kl", class_dim=1)}, "class_dim=-1.*class_dim=1"),
        ({"combine": "logits"}, "same combine, got losses at peers '0', '2'; logits at peer '1'"),
        ({"burn_in_steps": 5}, "same burn_in_steps, got 0 at peers '0', '2'; 5 at peer '1'"),
        ({"weight": Constant(2.0)}, r"same weight at step 0, got 1\.0 at peers '0', '2'; 2\.0 at peer '1'"),
        ({"weight": AtDrops(1.0, {500: 0.5})}, r"same weight at step 1000, got 1\.0 .*0\.5 at peer '1'"),
        ({"weight": lambda step: [1.0, 1.0][step]}, r"same weight at step 10, got 1\.0 .*IndexError at peer"),
    ],
)
def test_a_peer_with_another_setting_is_named_by_all(change, message):
    errors = agree_on([settings(), settings(**change), settings()])
    assert len({str(error) for error in errors}) == 1
    for error in errors:
        assert (error.peer, error.step) == ("1", 3)
        with pytest.raises(PeerMismatchError, match=message):
            raise error


def test_codecs_are_compared():
    codecs = ["exact", TopK(3, sampled=1), TopK(3, sampled=2)]
    for error in agree_on([settings()] * 3, codecs=codecs):
        assert "got exact at peer '0'; top-3, 1 of them sampled at peer '1'; top-3, 2 of" in str(error)


def test_of_two_the_second_is_named():
    errors = agree_on([settings(), settings(combine="logits")])
    assert [error.peer for error in errors] == ["1", "1"]


def layout_of(shape, dtype=torch.float32):
    logits = torch.zeros(shape, dtype=dtype)
    return PredictionLayout.of({"logits": logits}, logits=logits)


def swap(headers, layouts):
    got = {}

    def agree(agreement, number):
        own = headers[number]._replace(layout=layouts[number].digest)
        got[number] = agreement.on_swap(own, layouts[number])

    errors = among_peers(agree, len(headers))
    return errors, got


def header(**changes):
    return SwapHeader(**{"step": 7, "samples": 70, "layout": 0, **changes})


def test_peers_that_go_together_get_everybodys_header():
    layout = layout_of((4, 3))
    headers = [header(samples=number, batch=9, layout=layout.digest) for number in range(3)]
    errors, got = swap(headers, [layout] * 3)
    assert errors == [None] * 3
    assert got == dict.fromkeys(range(3), headers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 8}, "be at the same step .*got step 7 at peers '0', '1'; step 8 at peer '2'"),
        (
            {"batch": 5},
            "see the same batch, in the same order, got checksum 0+ at .*; checksum 0+5 at peer '2'",
        ),
        ({"step": 8, "batch": 5}, "be at the same step"),
    ],
)
def test_a_peer_that_is_elsewhere_is_named_by_all(changes, message):
    errors, _ = swap([header(), header(), header(**changes)], [layout_of((4, 3))] * 3)
    assert [error.peer for error in errors] == ["2"] * 3
    for error in errors:
        with pytest.raises(PeerMismatchError, match=message):
            raise error


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            layout_of((4, 2)),
            r"shape \[4, 2\] .* at peer '0'; logits of shape \[4, 3\] .* at peers '1', '2'\.",
        ),
        (layout_of((4, 3), torch.bfloat16), r"logits bfloat16 \[4, 3\] at peer '0'; .*float32 .* '1', '2'\."),
    ],
)
def test_a_peer_with_another_shape_or_dtype_is_named_by_all(other, message):
    errors, _ = swap([header()] * 3, [other, layout_of((4, 3)), layout_of((4, 3))])
    assert [error.peer for error in errors] == ["0"] * 3
    for error in errors:
        with pytest.raises(PeerMismatchError, match=message):
            raise error

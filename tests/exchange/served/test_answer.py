import json

import pytest
import torch
from safetensors.torch import save

from codistill.exchange.served.answer import Answer, ServedPrediction, ServedVersion

VERSION = {
    "peer": "b",
    "incarnation": 1,
    "sequence": 2,
    "step": 30,
    "samples": 240,
    "interval_steps": 10,
    "task_loss": 0.5,
    "finished": False,
}


def prediction_of(**changes):
    return ServedPrediction(
        version=ServedVersion(**{**VERSION, **changes}),
        is_usable=True,
        shape=torch.Size([2, 3]),
        tensors={"logits": torch.randn(2, 3), "more": torch.arange(2)},
    )


def written(tensors=None, **changes):
    """Return an answer as a stranger may write it."""
    prediction = {**VERSION, "usable": True, "shape": [2, 3], **changes}
    document = {"format": 1, "predictions": [prediction]}
    return save({"0.logits": torch.zeros(2, 3)} | (tensors or {}), {"codistill": json.dumps(document)})


def test_it_arrives_as_it_was_sent():
    sent = Answer(predictions=tuple(prediction_of(peer=peer, task_loss=None) for peer in "abc"))
    arrived = Answer.from_bytes(sent.to_bytes())
    assert len(arrived.predictions) == 3
    for one, other in zip(arrived.predictions, sent.predictions, strict=True):
        assert (one.version, one.is_usable, one.shape) == (other.version, other.is_usable, other.shape)
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items())


def test_one_of_nobody_arrives_too():
    assert Answer.from_bytes(Answer(predictions=()).to_bytes()).predictions == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (written(peer="../b"), "peer must be"),
        (written(incarnation=-1), "incarnation"),
        (written(interval_steps=0), "interval_steps"),
        (written(task_loss="low"), "task_loss"),
        (written(finished=1), "finished"),
        (written(usable=None), "usable"),
        (written(shape=[1] * 17), "shape"),
        (written(shape=[-1]), "shape"),
        (save({"0.logits": torch.zeros(1)}), "__metadata__"),
    ],
)
def test_what_a_server_writes_wrong_is_refused(content, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Answer.from_bytes(content)


def test_peers_are_different_and_in_order():
    for peers in ("ba", "aa"):
        with pytest.raises(ValueError, match="different peers in sorted order"):
            Answer.from_bytes(
                Answer(predictions=tuple(prediction_of(peer=peer) for peer in peers)).to_bytes()
            )


def test_tensors_of_nobody_are_ignored():
    (prediction,) = Answer.from_bytes(written({"7.logits": torch.zeros(1), "x": torch.zeros(1)})).predictions
    assert list(prediction.tensors) == ["logits"]

import contextlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from codistill.exchange.prediction.codec import BFloat16, Exact, TopK
from codistill.exchange.served.question import MAX_TENSORS, Question

DOCUMENT = {
    "format": 1,
    "inputs": "tensor",
    "codec": {"name": "exact"},
    "temperature": 1.0,
    "class_dim": -1,
    "peers": None,
    "left_out": {},
    "seed": 0,
}


def question(inputs, **wanted):
    return Question.of(inputs, **{"codec": Exact(), "left_out": {}, **wanted})


def written(tensors=None, **changes):
    """Return a question as a stranger may write it."""
    document = {name: value for name, value in {**DOCUMENT, **changes}.items() if value != "absent"}
    return save({"0": torch.zeros(2)} if tensors is None else tensors, {"codistill": json.dumps(document)})


@pytest.mark.parametrize("codec", [Exact(), BFloat16(), TopK(5, sampled=2)], ids=lambda codec: codec.name)
def test_it_arrives_as_it_was_sent(codec):
    sent = question(
        {"x": torch.randn(3, 2), "mask": torch.tensor([True, False, True]), "ids": torch.arange(3)},
        codec=codec,
        temperature=2.5,
        class_dim=1,
        peers=("a", "b"),
        left_out={"c": None, "b": (1, 7)},
        seed=2**63 - 1,
    )
    arrived = Question.from_bytes(sent.to_bytes())
    for name in ("kind", "codec", "temperature", "class_dim", "peers", "left_out", "seed"):
        assert getattr(arrived, name) == getattr(sent, name)
    assert arrived.tensors.keys() == sent.tensors.keys()
    assert all(torch.equal(arrived.tensors[name], tensor) for name, tensor in sent.tensors.items())


def test_the_order_of_positional_inputs_does_not_depend_on_their_dtypes():
    inputs = (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.float64), torch.ones(2))
    arrived = Question.from_bytes(question(inputs).to_bytes()).inputs
    assert [tensor.dtype for tensor in arrived] == [tensor.dtype for tensor in inputs]


def test_inputs_need_not_be_contiguous_nor_without_gradient():
    inputs = torch.randn(3, 4, requires_grad=True).T
    assert torch.equal(Question.from_bytes(question(inputs).to_bytes()).inputs, inputs)


def test_it_counts_samples_and_whole_numbers():
    asked = question((torch.zeros(3, 2), torch.zeros(4, dtype=torch.uint8), torch.zeros(9) > 0))
    assert (asked.rows, asked.whole_numbers) == (9, 4)
    assert question(torch.tensor(1.0)).rows == 1


def test_it_wants_whom_it_names_but_for_what_it_leaves_out():
    asked = question(torch.zeros(1), peers=("a", "b", "c"), left_out={"a": None, "b": (0, 3)})
    assert not asked.wants("a", (0, 0))
    assert not asked.wants("b", (0, 3))
    assert asked.wants("b", (0, 4))
    assert asked.wants("c", (0, 3))
    assert not asked.wants("d", (0, 0))


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(TypeError, match="tensor, a tuple or a mapping"):
        question([torch.zeros(1)])
    with pytest.raises(TypeError, match="tensors only"):
        question((torch.zeros(1), None))
    with pytest.raises(ValueError, match="complex64"):
        question(torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ValueError, match="at most 16 dimensions"):
        question(torch.zeros((1,) * 17))
    with pytest.raises(ValueError, match="arguments in Python"):
        question({"a.b": torch.zeros(1)})
    with pytest.raises(ValueError, match="1 to 64 tensors, got 0"):
        question(())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (written(format=2), "format"),
        (written(inputs="all"), "inputs"),
        (written(inputs="tensor", tensors={"1": torch.zeros(1)}), "by position"),
        (written(inputs="positional", tensors={"0": torch.zeros(1), "2": torch.zeros(1)}), "by position"),
        (written(inputs="tensor", tensors={"0": torch.zeros(1), "1": torch.zeros(1)}), "one tensor"),
        (written(inputs="named", tensors={"a b": torch.zeros(1)}), "arguments in Python"),
        (written(inputs="named", tensors={"a" * 65: torch.zeros(1)}), "arguments in Python"),
        (written(tensors={str(i): torch.zeros(1) for i in range(MAX_TENSORS + 1)}), "at most 64 tensors"),
        (written(tensors={"0": torch.zeros(2, dtype=torch.uint32)}), "uint32"),
        (written(tensors={"0": torch.zeros(2).to(torch.float8_e5m2)}), "float8"),
        (written(codec={"name": "zip"}), "codec.name"),
        (written(codec={"name": "top-k", "k": 0, "sampled": 0}), "k must be >= 1"),
        (written(codec={"name": "top-k", "k": 2**21, "sampled": 0}), "codec.k"),
        (written(codec={"name": "top-k", "k": 2, "sampled": 3}), "sampled must be"),
        (written(temperature=0.0), "temperature"),
        (written(temperature=None), "temperature"),
        (written(temperature="absent"), "temperature"),
        (written(class_dim=99), "class_dim"),
        (written(peers=["../a"]), "peer must be"),
        (written(peers=["a"] * 65), "peers must have at most 64"),
        (written(left_out={"a": [1]}), "incarnation and sequence"),
        (written(left_out={"a": [1, -1]}), "left_out.a"),
        (written(seed=2**63), "seed"),
        (save({"0": torch.zeros(1)}), "__metadata__"),
        (save({"0": torch.zeros(1)}, {"codistill": "[]"}), "JSON object"),
        (save({"0": torch.zeros(1)}, {"codistill": "[" * 100_000}), "nested"),
        ((2**63).to_bytes(8, "little") + bytes(100), "begin with the header"),
    ],
)
def test_what_a_stranger_writes_wrong_is_refused(content, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Question.from_bytes(content)


WHOLE = question((torch.randn(2, 3), torch.arange(2)), left_out={"a": (0, 1)}).to_bytes()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_changed_in_it_it_is_read_or_refused(data):
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(TypeError, ValueError):
        assert isinstance(Question.from_bytes(content), Question)

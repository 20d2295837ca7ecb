import pytest
import torch
from torch import nn

from codistill.exchange.prediction.codec import TopK
from codistill.planner import Model
from codistill.topologies import Directed, KRegular, Star


class Tied(nn.Module):
    """A weight under two names, BatchNorm with its buffers, and a bias that no codec rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(40, 40, bias=False)
        self.norm = nn.BatchNorm1d(40)
        self.head = nn.Linear(40, 40)
        self.head.weight = self.body.weight


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_is_counted_as_a_snapshot_of_it_would_be(device):
    with torch.device(device):
        model = Model.of(Tied())
    assert model == Model(
        parameters=40 * 40 + 40 + 40 + 40,
        weight_dtype="float32",
        tensors=4 + 3,
        unrounded_elements=120,
        buffer_bytes=2 * 40 * 4 + 8,
    )
    assert model.weight_bytes == 4 * 1720


def test_the_dtype_of_a_module_is_that_of_most_weights():
    module = nn.Sequential(nn.Linear(50, 50).bfloat16(), nn.Linear(50, 1))
    assert Model.of(module).weight_dtype == "bfloat16"


def test_a_module_without_parameters_is_refused():
    with pytest.raises(ValueError, match=r"^module must have parameters, got none"):
        Model.of(nn.ReLU())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": 0}, "^parameters must be >= 1, got 0"),
        ({"weight_dtype": "int8"}, "^weight_dtype must be one of 'float64', .*, got 'int8'"),
        ({"tensors": 0}, "^tensors must be >= 1, got 0"),
        ({"unrounded_elements": 11}, "^unrounded_elements must be between 0 and 10, got 11"),
        ({"buffer_bytes": -1}, "^buffer_bytes must be >= 0, got -1"),
    ],
)
def test_a_model_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Model(**{"parameters": 10, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peers": 1}, "^peers must be >= 2, got 1"),
        ({"ranks_per_peer": 0}, "^ranks_per_peer must be >= 1, got 0"),
        ({"batch_per_peer": 0}, "^batch_per_peer must be >= 1, got 0"),
        ({"positions": 0}, "^positions must be >= 1, got 0"),
        ({"outputs": 0}, "^outputs must be >= 1, got 0"),
        ({"interval_steps": 0}, "^interval_steps must be >= 1, got 0"),
        ({"outer_steps": 0}, "^outer_steps must be >= 1, got 0"),
        ({"logits_dtype": "float8"}, "^logits_dtype must be one of .*, got 'float8'"),
        ({"optimizer": "lion"}, "^optimizer must be one of 'sgd', .*, got 'lion'"),
        ({"topology": "tree"}, "^topology must be one of 'all', 'ring'"),
        ({"topology": KRegular(2)}, "^k must be <= 1 for 2 peers, got 2"),
        ({"topology": Star("a")}, "^centre must name peers, got 'a'"),
        ({"top_k": TopK(1001, sampled=1)}, "^top_k must have k <= 1000, the number of outputs, got 1001"),
        ({"top_k": TopK(10)}, "^top_k must have sampled >= 1 where k < 1000, the number of outputs, got 0"),
        ({"step_s": 0.0}, "^step_s must be > 0, got 0.0"),
        ({"step_s": float("inf")}, "^step_s must be > 0, got inf"),
        ({"step_s": "fast"}, "^step_s must be > 0, got 'fast'"),
    ],
)
def test_a_job_that_cannot_be_is_refused(small, fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields)


@pytest.mark.parametrize("fields", [{"model": nn.Linear(1, 1)}, {"top_k": 5}, {"is_sharded": 1}])
def test_what_is_of_another_type_is_refused(small, fields):
    with pytest.raises(TypeError, match=rf"^{next(iter(fields))} must be \w+\(\.\.\.\), got"):
        small(**fields)


def test_torch_s_own_dtypes_are_taken(small):
    assert Model(parameters=1, weight_dtype=torch.float16).weight_dtype == "float16"
    assert small(logits_dtype=torch.bfloat16).logits_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("topology", "teachers", "reads"),
    [
        ("ring", 1, 12),
        ("all", 11, 132),
        (KRegular(3), 3, 36),
        (Star("0"), 11, 22),
        (Directed([("0", "5")]), 1, 1),
    ],
)
def test_teachers_and_reads_follow_from_the_topology(small, topology, teachers, reads):
    job = small(peers=12, topology=topology)
    assert (job.teachers, job.reads) == (teachers, reads)


def test_top_k_is_chosen_where_there_are_more_outputs_than_it_sends(small):
    assert small(outputs=65).top_k == TopK(64, sampled=16)
    assert small(outputs=64).top_k is None
    assert small(outputs=10, top_k=TopK(10)).top_k == TopK(10)

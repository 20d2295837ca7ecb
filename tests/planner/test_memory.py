import pytest
import torch
from torch import nn

from codistill.exchange.prediction.codec import TopK
from codistill.planner import Model, plan
from codistill.planner.memory import plain_memory

# One million weights of float32 in a single tensor.
MB = 4e6


@pytest.mark.parametrize(
    ("optimizer", "copies"), [("sgd", 0), ("sgd_momentum", 1), ("adagrad", 1), ("adam", 2), ("adamw", 2)]
)
def test_an_optimizer_keeps_so_many_numbers_a_weight(small, optimizer, copies):
    memory = plain_memory(small(optimizer=optimizer))
    assert (memory.weights_bytes, memory.gradients_bytes, memory.optimizer_bytes) == (MB, MB, copies * MB)
    assert memory.device_bytes == (2 + copies) * MB
    assert memory.host_bytes == 0


def test_an_optimizer_s_numbers_are_those_of_torch(small):
    makers = {
        "sgd": torch.optim.SGD,
        "sgd_momentum": lambda p: torch.optim.SGD(p, momentum=0.9),
        "adagrad": torch.optim.Adagrad,
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    for name, make in makers.items():
        module = nn.Linear(100, 100, bias=False)
        optimizer = make(module.parameters())
        module(torch.ones(1, 100)).sum().backward()
        optimizer.step()
        # Of Adam's state, the number of steps is no number a weight.
        kept = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.dim() == 2
        ]
        job = small(optimizer=name, model=Model.of(module))
        assert plain_memory(job).optimizer_bytes == sum(value.nbytes for value in kept), name


def test_every_teacher_costs_a_copy_the_logits_of_a_batch_and_a_standby(small):
    memory = plan(small(peers=4, topology="all")).costs["checkpoint/exact"].memory
    assert memory.teachers_bytes == 3 * MB
    assert memory.predictions_bytes == 3 * 32 * 1000 * 4
    assert memory.staging_bytes == pytest.approx(MB, rel=1e-3)
    assert memory.standby_bytes == pytest.approx(3 * MB, rel=1e-3)


def test_codecs_that_round_keep_the_file_and_the_values(small):
    costs = plan(small()).costs
    half, quarter = costs["checkpoint/bfloat16"].memory, costs["checkpoint/int8"].memory
    assert half.staging_bytes == pytest.approx(0.5 * MB, rel=1e-3)
    assert half.standby_bytes == pytest.approx(1.5 * MB, rel=1e-3)
    assert quarter.staging_bytes == pytest.approx(1.25 * MB, rel=0.01)
    assert quarter.standby_bytes == pytest.approx(1.25 * MB, rel=0.01)


def test_what_a_codec_leaves_as_it_is_takes_no_second_copy(small):
    job = small(model=Model(parameters=1_000_000, weight_dtype="bfloat16", tensors=10))
    costs = plan(job).costs
    assert costs["checkpoint/bfloat16"].memory == costs["checkpoint/exact"].memory


def test_predictions_of_all_peers_are_held_and_no_teacher(small):
    costs = plan(small(peers=3, top_k=TopK(16, sampled=4))).costs
    held = {name: costs[f"prediction/{name}"].memory for name in ("exact", "bfloat16", "top_k")}
    assert held["exact"].predictions_bytes == 3 * 32 * 1000 * 4
    assert held["bfloat16"].predictions_bytes == 3 * 32 * 1000 * 2
    assert held["top_k"].predictions_bytes == 3 * 32 * (16 * 12 + 4)
    assert all(memory.teachers_bytes == memory.host_bytes == 0 for memory in held.values())


def test_ranks_divide_everything_where_they_are_sharded_and_the_batch_at_any_rate(small):
    whole = plan(small(ranks_per_peer=4)).costs["checkpoint/exact"].memory
    parts = plan(small(ranks_per_peer=4, is_sharded=True)).costs["checkpoint/exact"].memory
    for part in ("weights", "gradients", "optimizer", "teachers", "staging", "standby"):
        assert 4 * getattr(parts, f"{part}_bytes") == pytest.approx(getattr(whole, f"{part}_bytes"))
    assert parts.predictions_bytes == whole.predictions_bytes == 8 * 1000 * 4


def test_diloco_keeps_the_weights_before_and_its_momentum(small):
    assert plan(small()).costs["diloco"].memory.staging_bytes == 2 * MB

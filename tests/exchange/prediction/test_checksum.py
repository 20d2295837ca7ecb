from collections import OrderedDict, UserDict

import numpy as np
import pytest
import torch

from codistill.exchange.prediction import checksum as checksum_module
from codistill.exchange.prediction.checksum import checksum

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def rows(dtype=torch.float32, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(4, 3, 2, generator=generator).mul(3)
    return numbers > 0 if dtype == torch.bool else numbers.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_batches_have_one_number_and_others_another(dtype):
    batch = rows(dtype)
    assert checksum(batch) == checksum(batch.clone())
    assert checksum(batch) != checksum(batch.flip(0))
    changed = batch.clone()
    changed[2, 1, 0] = 1 - changed[2, 1, 0].to(torch.float32) if not dtype.is_complex else 7j
    assert checksum(batch) != checksum(changed)


def test_values_that_change_places_inside_a_sample_are_noticed():
    one, other = torch.zeros(3, 5), torch.zeros(3, 5)
    one[:, 0] = other[:, 1] = 1.0
    assert checksum(one) != checksum(other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.bool])
def test_another_order_of_samples_with_the_same_values_is_noticed(dtype):
    generator = torch.Generator().manual_seed(0)
    one_hot = torch.eye(8).to(dtype)
    orders = [torch.randperm(8, generator=generator) for _ in range(500)]
    different = {tuple(order.tolist()) for order in orders}
    assert len({checksum(one_hot[order]) for order in orders}) == len(different)


def test_all_pieces_of_a_large_batch_are_looked_at(monkeypatch):
    monkeypatch.setattr(checksum_module, "_PIECE", 5)
    batch = rows()
    numbers = {checksum(batch), checksum(batch.flip(0)), checksum(batch.flip(2))}
    for place in range(batch.numel()):
        changed = batch.clone()
        changed.view(-1)[place] += 1
        numbers.add(checksum(changed))
    assert len(numbers) == 3 + batch.numel()


def test_how_a_tensor_lies_in_memory_makes_no_difference():
    batch = rows()
    elsewhere = batch.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert elsewhere.stride() != batch.stride()
    assert checksum(batch) == checksum(elsewhere)
    complex_rows = rows(torch.complex64)
    assert checksum(complex_rows.conj()) == checksum(complex_rows.conj().resolve_conj())


def test_shape_and_dtype_belong_to_it():
    batch = torch.zeros(4, 3)
    numbers = {checksum(batch), checksum(batch.T), checksum(batch.double()), checksum(batch.reshape(12))}
    assert len(numbers) == 4


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,)])
def test_small_and_empty_tensors_have_one(shape):
    assert checksum(torch.ones(shape)) == checksum(torch.ones(shape))
    assert 0 <= checksum(torch.ones(shape)) < 2**63


def test_large_numbers_overflow_alike():
    batch = torch.full((8, 1000), 2**62)
    assert checksum(batch) == checksum(batch.clone())


def test_nested_batches_are_gone_through():
    def batch(*, mask=True, length=3):
        return {"ids": rows(torch.int64), "more": [rows(), (torch.tensor(mask), length, None, "text")]}

    assert checksum(batch()) == checksum(batch())
    assert checksum(batch()) != checksum(batch(mask=False))
    assert checksum(batch()) != checksum(batch(length=4))


def test_mappings_of_any_kind_and_order_are_alike():
    a, b = rows(), rows(seed=1)
    number = checksum({"a": a, "b": b})
    assert (
        number
        == checksum({"b": b, "a": a})
        == checksum(OrderedDict(a=a, b=b))
        == checksum(UserDict(a=a, b=b))
    )
    assert number != checksum({"a": b, "b": a})


def test_of_other_objects_only_the_type_is_looked_at():
    assert checksum((np.zeros(2),)) == checksum((np.ones(2),)) != checksum((object(),))
    assert checksum(torch.eye(3).to_sparse()) == checksum(torch.ones(3, 3).to_sparse())


def test_it_keeps_its_hands_off_random_numbers_and_gradients():
    before = torch.random.get_rng_state()
    batch = rows().requires_grad_()
    checksum(batch)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert batch.grad is None

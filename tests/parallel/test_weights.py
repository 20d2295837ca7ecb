import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

from codistill.parallel.weights import copy_into, named_tensors, unwrap

NAMES = [
    "0.weight",
    "0.bias",
    "1.weight",
    "1.bias",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
]


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.fixture
def process_group():
    """A world of one rank, which opens no port."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(module):
    return torch.compile(module, backend="eager")


def test_a_plain_module_is_its_own_inside():
    model = plain()
    assert unwrap(model) is model


def test_compile_is_unwrapped():
    model = plain()
    assert unwrap(compiled(model)) is model


@pytest.mark.parametrize(
    "wrap",
    [
        DistributedDataParallel,
        lambda model: compiled(DistributedDataParallel(model)),
        lambda model: DistributedDataParallel(compiled(model)),
    ],
    ids=["DDP", "compiled DDP", "DDP of compiled"],
)
@pytest.mark.usefixtures("process_group")
def test_ddp_is_unwrapped(wrap):
    model = plain()
    wrapped = wrap(model)
    assert unwrap(wrapped) is model
    assert list(named_tensors(wrapped)) == NAMES


def test_names_are_those_of_the_state_dict():
    model = plain()
    assert list(named_tensors(model)) == NAMES == list(model.state_dict())
    assert list(named_tensors(compiled(model))) == NAMES


def test_wrappers_inside_leave_no_trace_in_names():
    model = plain()
    model[0] = compiled(checkpoint_wrapper(model[0]))
    assert list(named_tensors(model)) == NAMES


def test_a_users_own_name_is_not_mistaken_for_a_wrapper():
    model = nn.ModuleDict({"my_orig_mod": nn.Linear(2, 2), "my": nn.Linear(2, 2)})
    assert list(named_tensors(model)) == ["my_orig_mod.weight", "my_orig_mod.bias", "my.weight", "my.bias"]


def test_buffers_that_are_not_persistent_stay_out():
    model = nn.Linear(2, 2)
    model.register_buffer("cache", torch.zeros(2), persistent=False)
    assert list(named_tensors(model)) == ["weight", "bias"]


def test_tensors_share_memory_with_the_model():
    model = plain()
    named = named_tensors(model)
    assert named["0.weight"].data_ptr() == model[0].weight.data_ptr()
    assert not named["0.weight"].requires_grad


def test_tied_tensors_appear_under_each_name():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5, bias=False)})
    model["decoder"].weight = model["embedding"].weight
    named = named_tensors(model)
    assert list(named) == ["embedding.weight", "decoder.weight"]
    assert named["embedding.weight"].data_ptr() == named["decoder.weight"].data_ptr()


def test_copy_keeps_the_memory_and_the_dtype():
    model = plain()
    pointer = model[0].weight.data_ptr()
    tensors = {name: torch.full_like(tensor, 2).double() for name, tensor in named_tensors(model).items()}
    copy_into(model, tensors)
    assert model[0].weight.data_ptr() == pointer
    assert model[0].weight.dtype == torch.float32
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert all(bool((tensor == 2).all()) for tensor in named_tensors(model).values())


def test_copy_goes_through_wrappers():
    model = plain()
    copy_into(
        compiled(model), {name: torch.full_like(tensor, 3) for name, tensor in named_tensors(model).items()}
    )
    assert bool((model[0].weight == 3).all())


def test_copy_records_no_gradient():
    model = plain()
    copy_into(model, named_tensors(plain()))
    assert model[0].weight.grad_fn is None
    assert model[0].weight.requires_grad


def test_copy_misses_no_name():
    model = plain()
    with pytest.raises(KeyError, match=r"1\.running_var"):
        copy_into(
            model, {name: tensor for name, tensor in named_tensors(plain()).items() if "var" not in name}
        )

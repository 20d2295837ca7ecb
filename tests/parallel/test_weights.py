import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from codistill.fragments import Box
from codistill.parallel.weights import (
    copy_into,
    fragments_to_publish,
    is_sharded,
    materialise,
    named_fragments,
    named_tensors,
    unwrap,
)

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


# Modules that ranks divide among them


class Net(nn.Module):
    """Tied weights, running statistics, and sizes that few numbers of ranks divide."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.inner = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6))
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embedding.weight
        self.score = nn.Linear(7, 1)
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.register_buffer("scale", torch.tensor(0.5))


@contextmanager
def rank_of(rank, *sizes):
    """Be one rank of a world that is not there: it divides, but nothing can be sent.

    Torch remembers where a rank is by the mesh, which therefore has a name of its own.
    """
    ranks = int(torch.tensor(sizes).prod())
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield init_device_mesh("cpu", sizes, mesh_dim_names=[f"{rank}-{dim}" for dim in range(len(sizes))])
    finally:
        dist.destroy_process_group()


def columns(parameter):
    is_even = parameter.dim() == 2 and parameter.shape[1] % 2 == 0
    return Shard(1) if is_even else Shard(0)


def divided(mesh, model=None, **options):
    torch.manual_seed(0)
    model = Net() if model is None else model
    fully_shard(model.inner, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def whole_state():
    torch.manual_seed(0)
    return Net().state_dict()


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((1,), {}),
        ((2,), {}),
        ((4,), {}),
        ((9,), {}),
        ((2,), {"shard_placement_fn": columns}),
        ((2, 2), {}),
        ((3, 2), {}),
        ((2, 1), {}),
    ],
    ids=lambda value: "columns" if value else "rows" if value == {} else str(value),
)
def test_all_ranks_together_write_everything_once(sizes, options):
    state = whole_state()
    written = {name: torch.full(tensor.shape, torch.nan) for name, tensor in state.items()}
    times = {name: torch.zeros(tensor.shape) for name, tensor in state.items()}
    authors = {name: [] for name in state}
    for rank in range(int(torch.tensor(sizes).prod())):
        with rank_of(rank, *sizes) as mesh:
            for name, fragment in fragments_to_publish(divided(mesh, **options), rank=rank).items():
                assert type(fragment.values) is torch.Tensor
                assert fragment.values.shape == fragment.box.shape
                assert fragment.shape == state[name].shape
                index = fragment.box.within(Box.whole(fragment.shape))
                written[name][index] = fragment.values.detach().to(written[name].dtype)
                times[name][index] += 1
                authors[name].append(rank)
    for name, tensor in state.items():
        assert torch.equal(written[name], tensor.to(written[name].dtype)), name
        assert bool((times[name] == 1).all())
    # Even what has no elements is written, by one rank; and what is not divided by the first.
    assert authors["nothing"] == authors["scale"] == authors["inner.1.running_mean"] == [0]


def test_ranks_beside_the_first_of_replicas_write_nothing():
    for rank in (2, 3):
        with rank_of(rank, 2, 2) as mesh:
            model = divided(mesh)
            assert fragments_to_publish(model, rank=rank) == {}
            assert len(named_fragments(model)) == len(whole_state())


@pytest.mark.parametrize("rank", range(3))
def test_fragments_are_the_ranks_boxes_of_the_whole_and_share_its_memory(rank):
    state = whole_state()
    with rank_of(rank, 3) as mesh:
        model = divided(mesh)
        fragments = named_fragments(model)
        assert list(fragments) == list(state)
        for name, fragment in fragments.items():
            expected = state[name][fragment.box.within(Box.whole(tuple(state[name].shape)))]
            assert torch.equal(fragment.values, expected)
        for fragment in fragments.values():
            fragment.values.detach().fill_(3)
        assert all(bool((f.values == 3).all()) for f in named_fragments(model).values())
        tied = fragments["embedding.weight"].values, fragments["head.weight"].values
        assert tied[0].data_ptr() == tied[1].data_ptr()


@pytest.mark.parametrize("rank", range(3))
@pytest.mark.parametrize("are_fragments", [True, False])
def test_copy_fills_what_a_rank_holds_from_fragments_or_wholes(rank, are_fragments):
    torch.manual_seed(1)
    state = {name: torch.randn(tensor.shape) * 9 for name, tensor in whole_state().items()}
    state["head.weight"] = state["embedding.weight"]
    with rank_of(rank, 3) as mesh:
        model = divided(mesh)
        own = named_fragments(model)
        parts = {
            name: tensor[own[name].box.within(Box.whole(tuple(tensor.shape)))]
            for name, tensor in state.items()
        }
        copy_into(model, parts if are_fragments else state, are_fragments=are_fragments)
        for name, fragment in own.items():
            assert torch.equal(fragment.values, parts[name].to(fragment.values.dtype))
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_module_is_sharded_if_any_tensor_of_it_is():
    with rank_of(0, 2) as mesh:
        model = Net()
        assert not is_sharded(model)
        fully_shard(model.inner, mesh=mesh)
        assert is_sharded(model)
        assert is_sharded(compiled(model))


@pytest.mark.parametrize("placement", [Partial(), "strided"])
def test_other_divisions_are_refused_on_every_rank_by_name(placement):
    if placement == "strided":
        from torch.distributed.tensor.placement_types import _StridedShard

        placement = _StridedShard(0, split_factor=2)
    for rank in range(4):
        with rank_of(rank, 2, 2) as mesh:
            model = nn.Linear(2, 2)
            odd = DTensor.from_local(torch.zeros(2, 2), mesh, [Replicate(), placement], run_check=False)
            model.weight = nn.Parameter(odd)
            for look in (named_fragments, lambda model, rank=rank: fragments_to_publish(model, rank=rank)):
                with pytest.raises(
                    TypeError, match=r"'weight' must be divided by torch's Shard .* fully_shard"
                ):
                    look(model)


@pytest.fixture
def world_of_one(process_group):
    return init_device_mesh("cpu", (1,))


def test_what_a_forward_has_put_together_is_neither_kept_nor_overlooked(world_of_one):
    """The outermost module stays whole after a forward, and would go on predicting with what it had."""
    torch.manual_seed(0)
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    fully_shard(model, mesh=world_of_one)
    inputs = torch.randn(2, 4)
    for state in (other.state_dict(), nn.Linear(4, 3).state_dict()):
        with torch.no_grad():
            model(inputs)
        assert type(model.weight) is nn.Parameter
        assert is_sharded(model)
        with torch.no_grad():
            model(inputs)
        copy_into(model, state)
        with torch.no_grad():
            assert torch.equal(model(inputs), nn.functional.linear(inputs, state["weight"], state["bias"]))


def test_reading_a_divided_model_between_forward_and_backward_leaves_its_gradients(world_of_one):
    torch.manual_seed(0)
    plain_model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    fully_shard(model, mesh=world_of_one)
    inputs = torch.randn(2, 4)
    loss = model(inputs).sum()
    fragments_to_publish(model, rank=0)
    loss.backward()
    plain_model(inputs).sum().backward()
    for own, expected in zip(model.parameters(), plain_model.parameters(), strict=True):
        assert torch.equal(own.grad.full_tensor(), expected.grad)


def test_names_of_a_divided_module_are_those_of_the_users(world_of_one):
    model = plain()
    model[0] = checkpoint_wrapper(model[0])
    fully_shard(model[0], mesh=world_of_one)
    fully_shard(model, mesh=world_of_one)
    assert list(named_fragments(compiled(model))) == NAMES


# Modules on the meta device


def on_meta(make):
    with torch.device("meta"):
        return make()


def test_what_is_on_the_meta_device_is_given_memory():
    model = materialise(on_meta(plain), torch.device("cpu"))
    copy_into(model, named_tensors(plain()))
    for name, tensor in named_tensors(plain()).items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_what_is_elsewhere_stays_as_it_is():
    model = plain()
    pointers = {name: tensor.data_ptr() for name, tensor in named_tensors(model).items()}
    assert materialise(model, torch.device("cpu")) is model
    assert {name: tensor.data_ptr() for name, tensor in named_tensors(model).items()} == pointers


def test_a_divided_module_on_the_meta_device_is_given_memory():
    state = whole_state()
    for rank in range(2):
        with rank_of(rank, 2) as mesh:
            model = materialise(divided(mesh, on_meta(Net)), torch.device("cpu"))
            copy_into(model, state)
            for name, fragment in named_fragments(model).items():
                expected = state[name][fragment.box.within(Box.whole(tuple(state[name].shape)))]
                assert torch.equal(fragment.values, expected)


def test_buffers_that_no_snapshot_brings_must_have_values():
    model = on_meta(plain)
    with torch.device("meta"):
        model.register_buffer("frequencies", torch.zeros(3), persistent=False)
    with pytest.raises(
        ValueError, match=r"buffers that are not persistent .* got frequencies on the meta device"
    ):
        materialise(model, torch.device("cpu"))


def test_buffers_that_no_snapshot_brings_keep_their_values():
    model = on_meta(plain)
    model[0].register_buffer("frequencies", torch.arange(3.0), persistent=False)
    materialise(model, torch.device("cpu"))
    assert model[0].frequencies.tolist() == [0.0, 1.0, 2.0]
    assert not model[0].weight.is_meta


def test_persistent_buffers_inside_a_wrapper_are_brought_by_the_snapshot():
    model = on_meta(plain)
    model[1] = checkpoint_wrapper(model[1])
    assert not named_tensors(materialise(model, torch.device("cpu")))["1.running_mean"].is_meta


@pytest.mark.spawn
def test_who_divides_nothing_does_not_import_what_divides():
    program = (
        "import sys, torch, codistill\n"
        "from codistill.parallel.weights import fragments_to_publish, is_sharded\n"
        "model = torch.nn.BatchNorm1d(2)\n"
        "assert not is_sharded(model) and len(fragments_to_publish(model, rank=0)) == 5\n"
        "print([name for name in sys.modules if name.startswith('torch.distributed.tensor')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr

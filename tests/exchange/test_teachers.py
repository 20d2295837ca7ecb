import collections

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from codistill.errors import SnapshotMismatchError
from codistill.exchange.teacher_options import TeacherOptions
from codistill.exchange.teachers import Teacher, check_can_be_copied, make_teacher
from codistill.parallel.weights import named_tensors
from codistill.snapshots.info import SnapshotInfo


def info_for(module, *, step=3, **changes):
    fields = {
        "peer": "b",
        "incarnation": 1,
        "sequence": 2,
        "step": step,
        "samples": 30,
        "task_loss": 0.5,
        "interval_steps": 5,
        "codec": "exact",
        "finished": False,
        "metadata": {"width": 4},
        "size_bytes": 100,
        "tensors": {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()},
    }
    return SnapshotInfo(**{**fields, **changes})


def teacher_of(module, *, like=None, options=None):
    """Return a teacher with the weights of ``module``, made from the student ``like``."""
    info = info_for(module)
    teacher = make_teacher(module if like is None else like, info, options or TeacherOptions())
    teacher.check_fits(info, key="b/manifest.json")
    teacher.load(
        {name: tensor.clone() for name, tensor in named_tensors(module).items()}, info, first_seen_step=7
    )
    return teacher


def logits_of(teacher, inputs, outputs_to_logits=None):
    return teacher.predict(inputs, outputs_to_logits).target.logits


def batchnorm_model(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    for _ in range(3):
        model(torch.randn(8, 4) * 2 + 1)
    return model


# What it predicts


def test_it_predicts_what_the_peer_does_in_eval_mode():
    peer, student = batchnorm_model(0), batchnorm_model(1)
    inputs = torch.randn(5, 4)
    predicted = logits_of(teacher_of(peer, like=student), inputs)
    assert torch.equal(predicted, peer.eval()(inputs))


def test_running_statistics_are_the_peers():
    peer, student = batchnorm_model(0), batchnorm_model(1)
    norm = teacher_of(peer, like=student)._module[1]
    assert torch.equal(norm.running_mean, peer[1].running_mean)
    assert torch.equal(norm.running_var, peer[1].running_var)
    assert norm.num_batches_tracked == 3


def test_forwards_do_not_change_running_statistics():
    teacher = teacher_of(batchnorm_model(0))
    before = teacher._module[1].running_mean.clone()
    for _ in range(3):
        logits_of(teacher, torch.randn(5, 4) + 100)
    assert torch.equal(teacher._module[1].running_mean, before)


def test_dropout_is_off():
    teacher = teacher_of(batchnorm_model(0))
    inputs = torch.randn(5, 4)
    assert torch.equal(logits_of(teacher, inputs), logits_of(teacher, inputs))


def test_nothing_requires_a_gradient():
    teacher = teacher_of(nn.Linear(4, 3))
    predicted = logits_of(teacher, torch.randn(5, 4, requires_grad=True))
    assert not predicted.requires_grad
    assert predicted.grad_fn is None
    assert not any(parameter.requires_grad for parameter in teacher._module.parameters())


def test_predictions_may_be_saved_for_a_backward_pass():
    predicted = logits_of(teacher_of(nn.Linear(4, 3)), torch.randn(5, 4))
    assert not predicted.is_inference()
    student = torch.randn(5, 3, requires_grad=True)
    (student * predicted).sum().backward()
    assert torch.equal(student.grad, predicted)


def test_it_runs_in_the_callers_autocast():
    teacher = teacher_of(nn.Linear(4, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert logits_of(teacher, torch.randn(5, 4)).dtype == torch.bfloat16
    assert logits_of(teacher, torch.randn(5, 4)).dtype == torch.float32


def test_a_prediction_says_whose_it_is():
    prediction = teacher_of(nn.Linear(4, 3)).predict(torch.randn(5, 4), None)
    assert (prediction.peer, prediction.step, prediction.samples) == ("b", 3, 30)
    assert prediction.sequence == (1, 2)


def test_it_says_how_old_it_is():
    described = teacher_of(nn.Linear(4, 3)).describe(20)
    assert (described.peer, described.incarnation, described.sequence) == ("b", 1, 2)
    assert (described.step, described.samples, described.age_steps) == (3, 30, 13)
    assert (described.task_loss, described.metadata) == (0.5, {"width": 4})


# Inputs and outputs


class Sum(nn.Module):
    """Adds what it is given, however it is given."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x, y=0.0, *, z=0.0):
        return x + y + z + self.bias


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (torch.zeros(1, 2), 0.0),
        ((torch.zeros(1, 2),), 0.0),
        ((torch.zeros(1, 2), torch.tensor(10.0)), 10.0),
        ({"x": torch.zeros(1, 2), "z": 5.0}, 5.0),
        (collections.OrderedDict(y=1.0, x=torch.zeros(1, 2)), 1.0),
        (collections.UserDict(x=torch.zeros(1, 2)), 0.0),
    ],
    ids=["tensor", "tuple of one", "tuple", "dict", "ordered dict", "mapping"],
)
def test_inputs_are_what_the_model_is_called_with(inputs, expected):
    assert torch.equal(logits_of(teacher_of(Sum()), inputs), torch.tensor([[1.0, 2.0]]) + expected)


@pytest.mark.parametrize("inputs", [[torch.zeros(1, 2)], "text", None, 5])
def test_other_inputs_are_refused(inputs):
    with pytest.raises(
        TypeError, match=f"inputs must be a tensor, a tuple or a mapping, got {type(inputs).__name__}"
    ):
        teacher_of(Sum()).predict(inputs, None)


class Wordy(nn.Linear):
    def forward(self, inputs):
        return {"logits": super().forward(inputs), "hidden": inputs}


def test_outputs_are_turned_into_logits_without_gradient():
    model = Wordy(4, 3)
    scale = torch.tensor(2.0, requires_grad=True)
    inputs = torch.randn(5, 4)
    predicted = logits_of(teacher_of(model), inputs, lambda outputs: outputs["logits"] * scale)
    assert torch.equal(predicted, 2 * model(inputs)["logits"])
    assert not predicted.requires_grad


def test_outputs_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match=r"output must be a tensor of logits, got dict\..*outputs_to_logits"):
        teacher_of(Wordy(4, 3)).predict(torch.randn(5, 4), None)


def test_outputs_to_logits_must_return_a_tensor():
    with pytest.raises(TypeError, match="output must be a tensor of logits, got str"):
        teacher_of(nn.Linear(4, 3)).predict(torch.randn(5, 4), lambda outputs: "text")


def test_integer_outputs_are_refused():
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor, got torch.int64"):
        teacher_of(nn.Linear(4, 3)).predict(torch.randn(5, 4), lambda outputs: outputs.argmax(-1))


# Weights


def test_weights_go_into_the_modules_own_memory():
    teacher = teacher_of(nn.Linear(4, 3))
    before = [parameter.data_ptr() for parameter in teacher._module.parameters()]
    other = nn.Linear(4, 3)
    teacher.load(named_tensors(other), info_for(other, step=9), first_seen_step=8)
    assert [parameter.data_ptr() for parameter in teacher._module.parameters()] == before
    assert torch.equal(teacher._module.weight, other.weight)
    assert (teacher.describe(10).step, teacher.first_seen_step) == (9, 8)


def test_other_shapes_are_refused_with_peer_step_and_key():
    teacher = make_teacher(nn.Linear(4, 3), info_for(nn.Linear(4, 3)), TeacherOptions())
    message = (
        r"Snapshot of peer 'b' at step 3 does not fit this model: 'bias' is \[7\] there and \[3\] here, "
        r"and 1 more difference\. Pass TeacherOptions\(build=\.\.\.\)"
    )
    with pytest.raises(SnapshotMismatchError, match=message) as caught:
        teacher.check_fits(info_for(nn.Linear(4, 7)), key="the key")
    assert (caught.value.peer, caught.value.step, caught.value.key) == ("b", 3, "the key")


def test_missing_and_unknown_names_are_refused():
    teacher = make_teacher(nn.Linear(4, 3), info_for(nn.Linear(4, 3)), TeacherOptions())
    with pytest.raises(SnapshotMismatchError, match="'bias' is missing there"):
        teacher.check_fits(info_for(nn.Linear(4, 3, bias=False)), key="key")
    teacher = make_teacher(nn.Linear(4, 3, bias=False), info_for(nn.Linear(4, 3)), TeacherOptions())
    with pytest.raises(SnapshotMismatchError, match="'bias' is unknown here"):
        teacher.check_fits(info_for(nn.Linear(4, 3)), key="key")


def test_who_builds_is_not_told_to_build():
    options = TeacherOptions(build=lambda info: nn.Linear(4, 3))
    teacher = make_teacher(nn.Linear(4, 3), info_for(nn.Linear(4, 7)), options)
    with pytest.raises(SnapshotMismatchError) as caught:
        teacher.check_fits(info_for(nn.Linear(4, 7)), key="key")
    assert "does not fit" in str(caught.value)
    assert "Pass TeacherOptions(build=...) to codistill" not in str(caught.value)


def test_weights_of_another_precision_are_converted():
    student = nn.Linear(4, 3)
    peer = nn.Linear(4, 3).to(torch.float64)
    teacher = teacher_of(peer, like=student)
    assert teacher._module.weight.dtype == torch.float32
    assert torch.equal(teacher._module.weight, peer.weight.float())


def test_integer_and_boolean_buffers_are_kept():
    class Masked(nn.Linear):
        def __init__(self, steps, mask):
            super().__init__(4, 3)
            self.register_buffer("steps", torch.tensor(steps))
            self.register_buffer("mask", torch.tensor(mask))

    teacher = teacher_of(Masked(2**40 + 1, [True, False]), like=Masked(0, [False, False]))
    assert teacher._module.steps == 2**40 + 1
    assert teacher._module.steps.dtype == torch.int64
    assert torch.equal(teacher._module.mask, torch.tensor([True, False]))


# How it is made


def test_a_copy_shares_nothing_with_the_student():
    student = nn.Sequential(nn.Linear(4, 3))
    teacher = make_teacher(student, info_for(student), TeacherOptions())
    assert list(student.children()) == [student[0]]
    own = {parameter.data_ptr() for parameter in student.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in teacher._module.parameters())


def test_making_one_leaves_the_student_in_train_mode_with_gradients():
    student = batchnorm_model(0)
    student(torch.randn(5, 4)).sum().backward()
    gradient = student[0].weight.grad.clone()
    make_teacher(student, info_for(student), TeacherOptions())
    assert all(module.training for module in student.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(student[0].weight.grad, gradient)


def test_a_teacher_does_not_carry_the_students_gradients():
    student = nn.Linear(4, 3)
    student(torch.randn(5, 4)).sum().backward()
    teacher = make_teacher(student, info_for(student), TeacherOptions())
    assert all(parameter.grad is None for parameter in teacher._module.parameters())


def test_a_compiled_student_has_a_plain_teacher():
    student = torch.compile(nn.Linear(4, 3), backend="eager")
    teacher = make_teacher(student, info_for(student), TeacherOptions())
    assert type(teacher._module) is nn.Linear


def test_a_student_that_was_compiled_in_place_can_be_copied():
    student = nn.Linear(4, 3)
    student.compile(backend="eager")
    inputs = torch.randn(5, 4)
    assert torch.equal(logits_of(teacher_of(student), inputs), student(inputs))


def test_a_student_with_a_compiled_part_can_be_copied():
    student = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    student[0] = torch.compile(student[0], backend="eager")
    assert list(named_tensors(student)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    inputs = torch.randn(5, 4)
    assert torch.equal(logits_of(teacher_of(student), inputs), student(inputs))


class Stateful(nn.Linear):
    """Keeps something that cannot be copied."""

    def __init__(self, kept):
        super().__init__(4, 3)
        self.kept = kept


def non_leaf():
    return torch.ones(2, requires_grad=True) * 2


@pytest.mark.parametrize("kept", [non_leaf(), (number for number in range(3))], ids=["non-leaf", "generator"])
def test_a_student_that_cannot_be_copied_is_told_to_build(kept):
    student = Stateful(kept)
    with pytest.raises(
        TypeError, match=r"must allow copy\.deepcopy to serve as a teacher, got: .*build="
    ) as caught:
        make_teacher(student, info_for(student), TeacherOptions())
    assert caught.value.__cause__ is not None


def test_a_student_that_cannot_be_copied_can_be_built():
    student = Stateful(non_leaf())
    options = TeacherOptions(build=lambda info: nn.Linear(4, 3))
    inputs = torch.randn(5, 4)
    assert torch.equal(logits_of(teacher_of(student, options=options), inputs), student(inputs))


def test_build_is_told_about_the_snapshot():
    asked = []

    def build(info):
        asked.append(info)
        return nn.Linear(info.metadata["width"], 3)

    peer = nn.Linear(4, 3)
    teacher_of(peer, like=nn.Linear(9, 9), options=TeacherOptions(build=build))
    assert [(info.peer, info.step, dict(info.metadata)) for info in asked] == [("b", 3, {"width": 4})]


def test_build_leaves_the_random_numbers_alone():
    student = nn.Linear(4, 3)
    before = torch.random.get_rng_state()
    make_teacher(student, info_for(student), TeacherOptions(build=lambda info: nn.Linear(4, 3)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_build_on_a_device_leaves_its_random_numbers_alone():
    student = nn.Linear(4, 3, device="cuda")
    before = torch.cuda.get_rng_state()
    options = TeacherOptions(build=lambda info: nn.Linear(4, 3, device="cuda"))
    make_teacher(student, info_for(student), options)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_what_is_built_is_frozen_and_in_eval_mode():
    built = batchnorm_model(0)
    make_teacher(nn.Linear(4, 3), info_for(built), TeacherOptions(build=lambda info: built))
    assert not any(module.training for module in built.modules())
    assert not any(parameter.requires_grad for parameter in built.parameters())


@pytest.mark.parametrize("built", [None, "model", torch.zeros(2)])
def test_build_must_return_a_module(built):
    with pytest.raises(
        TypeError, match=rf"build must return a torch\.nn\.Module, got {type(built).__name__}"
    ):
        make_teacher(nn.Linear(4, 3), info_for(nn.Linear(4, 3)), TeacherOptions(build=lambda info: built))


def test_build_must_not_return_the_student():
    student = nn.Linear(4, 3)
    for wrapped in (student, torch.compile(student, backend="eager")):
        with pytest.raises(
            TypeError, match="build must return a module of its own for peer 'b', got one that shares weights"
        ):
            make_teacher(wrapped, info_for(student), TeacherOptions(build=lambda info: student))
    assert student.training
    assert student.weight.requires_grad


def test_build_must_not_return_what_shares_weights_with_the_student():
    student = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(TypeError, match="build must return a module of its own"):
        make_teacher(student, info_for(student[0]), TeacherOptions(build=lambda info: student[0]))
    assert student[0].training
    assert student[0].weight.requires_grad


# Options


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"build": "resnet"}, TypeError, "build must be a function from SnapshotInfo to a module, got str"),
        ({"max_teachers": 0}, ValueError, "max_teachers must be >= 1, got 0"),
        ({"max_teachers": "4"}, TypeError, "max_teachers must"),
        ({"max_teachers": 1.5}, TypeError, "max_teachers must"),
        ({"every": 0}, ValueError, r"every must be >= 1, got 0\. 1 is at each step\."),
        ({"every": 2.0}, TypeError, "every must"),
        ({"dtype": "bfloat16"}, TypeError, r"dtype must be a floating dtype of torch, got 'bfloat16'"),
        ({"dtype": torch.int8}, TypeError, r"dtype must be a floating dtype of torch, got torch\.int8"),
        (
            {"device": "moon"},
            ValueError,
            r"device must be one of torch, got 'moon'\. Try \"cpu\" or \"cuda:1\"",
        ),
        ({"device": 1.5}, ValueError, r"device must be one of torch, got 1\.5"),
    ],
)
def test_wrong_options_are_named(options, kind, message):
    with pytest.raises(kind, match=message):
        TeacherOptions(**options)


def test_a_new_teacher_holds_nothing():
    teacher = Teacher(nn.Linear(4, 3))
    assert not teacher.module.weight.requires_grad
    assert teacher.first_seen_step == 0


# Logits that are no numbers


def predict_of(value, *, dtype=torch.float32):
    """Return the prediction of a teacher whose logits are zeros but for one value."""

    class Constant(nn.Linear):
        def forward(self, inputs):
            logits = torch.zeros(2, 3, dtype=dtype)
            logits[1, 2] = value
            return logits

    return teacher_of(Constant(4, 3)).predict(torch.zeros(2, 4), None, share=0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_logits_that_are_no_numbers_are_zeros_that_count_nothing(value, dtype):
    prediction = predict_of(value, dtype=dtype)
    assert prediction.share == 0.0
    assert prediction.target.logits.dtype == dtype
    assert torch.equal(prediction.target.logits, torch.zeros(2, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_classes_that_are_ruled_out_are_no_error(dtype):
    prediction = predict_of(float("-inf"), dtype=dtype)
    assert prediction.share == 0.5
    assert prediction.target.logits[1, 2] == float("-inf")


def test_large_logits_of_half_precision_are_numbers():
    prediction = predict_of(60_000.0, dtype=torch.float16)
    assert prediction.share == 0.5
    assert prediction.target.logits[1, 2] > 59_000


def test_a_teacher_tells_how_much_it_counts_and_whether_it_is_a_last_one():
    teacher = teacher_of(nn.Linear(4, 3))
    info = teacher.describe(20, share=0.25, is_quarantined=True)
    assert (info.share, info.is_quarantined) == (0.25, True)
    assert not teacher.is_finished
    assert teacher.describe(20).share == 1.0


def test_hooks_on_the_students_forward_are_not_the_teachers():
    student, seen = nn.Linear(4, 3), []
    student.register_forward_hook(lambda module, inputs, outputs: seen.append(1))
    logits_of(teacher_of(nn.Linear(4, 3), like=student), torch.zeros(2, 4))
    assert seen == []
    student(torch.zeros(2, 4))
    assert seen == [1]


# Teachers of another precision, or elsewhere


def bytes_of(module):
    return sum(tensor.nbytes for tensor in named_tensors(module).values() if tensor.is_floating_point())


@pytest.mark.parametrize("is_built", [False, True])
def test_a_teacher_in_half_precision_takes_half_the_memory_and_predicts_nearly_the_same(is_built):
    peer, student = batchnorm_model(0), batchnorm_model(1)
    build = (lambda info: batchnorm_model(2)) if is_built else None
    teacher = teacher_of(peer, like=student, options=TeacherOptions(build=build, dtype=torch.bfloat16))
    inputs = torch.randn(5, 4)
    predicted = logits_of(teacher, inputs)
    assert predicted.dtype == torch.bfloat16
    assert torch.allclose(predicted.float(), peer.eval()(inputs), atol=0.05)
    assert 2 * bytes_of(teacher.module) == bytes_of(peer)
    # Counts are no weights, and the student is not touched.
    assert teacher.module[1].num_batches_tracked == 3
    assert student[0].weight.dtype == torch.float32


def test_a_newer_snapshot_is_rounded_too():
    teacher = teacher_of(nn.Linear(4, 3), options=TeacherOptions(dtype=torch.bfloat16))
    newer = nn.Linear(4, 3)
    teacher.load(named_tensors(newer), info_for(newer), first_seen_step=9)
    assert torch.equal(teacher.module.weight, newer.weight.bfloat16())


class Nested(nn.Module):
    """Remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, *inputs, **named):
        self.seen = (*inputs, *named.values())
        return torch.zeros(2, 3, device=self.bias.device, dtype=self.bias.dtype)


Pair = collections.namedtuple("Pair", ["values", "ids"])


def nested_inputs():
    values, ids = torch.ones(2), torch.ones(2, dtype=torch.int64)
    return {
        "tensor": values,
        "ids": ids,
        "list": [values, {"deep": (values, ids, "a word", None, 3)}],
        "pair": Pair(values, ids),
        "own": collections.UserDict(mask=values > 0),
    }


def all_tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, collections.abc.Mapping):
        return [tensor for one in value.values() for tensor in all_tensors(one)]
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in all_tensors(one)]
    return []


def test_floating_inputs_are_converted_however_nested():
    teacher = teacher_of(Nested(), options=TeacherOptions(dtype=torch.bfloat16))
    inputs = nested_inputs()
    logits_of(teacher, inputs)
    dtypes = [tensor.dtype for tensor in all_tensors(teacher.module.seen)]
    half, ids = torch.bfloat16, torch.int64
    assert dtypes == [half, ids, half, half, ids, half, ids, torch.bool]
    _, _, listed, pair, _ = teacher.module.seen
    assert listed[1]["deep"][2:] == ("a word", None, 3)
    assert isinstance(pair, Pair)
    # What the student was called with is as it was.
    assert {tensor.dtype for tensor in all_tensors(inputs)} == {torch.float32, torch.int64, torch.bool}


def test_inputs_go_to_the_teachers_device_and_predictions_come_back():
    """The meta device stands for another one."""
    teacher = Teacher(Nested(), device="meta")
    info = info_for(teacher.module)
    teacher.load(named_tensors(Nested()), info, first_seen_step=0)
    where = []

    def outputs_to_logits(outputs):
        where.append(outputs.device.type)
        return torch.zeros(2, 3)

    prediction = teacher.predict(nested_inputs(), outputs_to_logits, device=torch.device("cpu"))
    assert where == ["meta"]
    assert {tensor.device.type for tensor in all_tensors(teacher.module.seen)} == {"meta"}
    assert prediction.target.logits.device.type == "cpu"


def test_a_device_of_ones_own_is_where_a_teacher_lives():
    teacher = teacher_of(nn.Linear(4, 3), options=TeacherOptions(device="cpu"))
    assert teacher.module.weight.device.type == "cpu"
    assert logits_of(teacher, torch.zeros(2, 4)).shape == (2, 3)


def test_inputs_are_left_alone_where_nothing_is_asked():
    teacher = teacher_of(Nested())
    inputs = nested_inputs()
    logits_of(teacher, inputs)
    assert all(seen is given for seen, given in zip(teacher.module.seen, inputs.values(), strict=True))


# Modules on the meta device, and divided ones


def test_what_is_built_on_the_meta_device_is_given_memory_beside_the_student():
    def build(info):
        with torch.device("meta"):
            return nn.Linear(4, 3)

    peer = nn.Linear(4, 3)
    teacher = teacher_of(peer, like=nn.Linear(4, 3), options=TeacherOptions(build=build))
    inputs = torch.randn(5, 4)
    assert torch.equal(logits_of(teacher, inputs), peer(inputs))


def test_buffers_that_no_snapshot_would_bring_are_named():
    def build(info):
        with torch.device("meta"):
            model = nn.Linear(4, 3)
            model.register_buffer("cache", torch.zeros(2), persistent=False)
            return model

    with pytest.raises(ValueError, match=r"buffers that are not persistent .* got cache on the meta device"):
        make_teacher(nn.Linear(4, 3), info_for(nn.Linear(4, 3)), TeacherOptions(build=build))


@pytest.fixture
def divide():
    """Return what divides a module among the one rank of a world."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield lambda module: fully_shard(module, mesh=mesh)
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"device": "cpu"}])
def test_a_divided_teacher_is_neither_converted_nor_moved(divide, options):
    student = nn.Linear(4, 3)
    asked = TeacherOptions(build=lambda info: divide(nn.Linear(4, 3)), **options)
    with pytest.raises(ValueError, match=r"dtype and device must be None for a teacher that ranks divide"):
        make_teacher(student, info_for(student), asked)


def test_a_divided_teacher_is_one_after_its_forward_too_and_takes_newer_weights(divide):
    peer, newer = nn.Linear(4, 3), nn.Linear(4, 3)
    options = TeacherOptions(build=lambda info: divide(nn.Linear(4, 3)))
    teacher = teacher_of(peer, like=nn.Linear(4, 3), options=options)
    inputs = torch.randn(5, 4)
    for module in (peer, newer):
        teacher.load(named_tensors(module), info_for(module), first_seen_step=0)
        assert torch.equal(logits_of(teacher, inputs), module(inputs))
        assert teacher.is_divided


def test_a_divided_student_is_neither_copied_nor_shared(divide):
    student = divide(nn.Linear(4, 3))
    with torch.no_grad():
        student(torch.zeros(2, 4))
    with pytest.raises(
        TypeError, match=r"A model that ranks divide among them \(fully_shard\) cannot be copied"
    ):
        check_can_be_copied(student)
    with pytest.raises(TypeError, match="build must return a module of its own"):
        make_teacher(student, info_for(student), TeacherOptions(build=lambda info: student))

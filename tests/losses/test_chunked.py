import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from codistill.losses import DenseTarget, Divergence, chunked, distillation_term, sample_top_k

OURS = [
    "kl",
    "reverse_kl",
    "symmetric_kl",
    "jensen_shannon",
    "soft_cross_entropy",
    "logit_mse",
    "centred_logit_mse",
    "bernoulli_kl",
]
WHOLE = 2**62
INF, NAN = math.inf, math.nan


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """Return the term and its gradient, computed in parts of a size."""

    def term_and_gradient(part: int, divergence: Divergence, student: Tensor, *teachers: Tensor, **how: Any):
        monkeypatch.setattr(chunked, "_PART", part)
        student = student.detach().requires_grad_()
        term = distillation_term(divergence, student, [DenseTarget(each) for each in teachers], **how)
        return term.detach(), *torch.autograd.grad(term, student)

    return term_and_gradient


class LargestTensor(TorchDispatchMode):
    """Watches how large the float32 tensors become that are made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("part", [1, 30, 1000])
@pytest.mark.parametrize(
    ("shape", "class_dim"), [((60, 5), -1), ((5, 60), 0), ((3, 7, 11), -1), ((3, 4, 5, 6), 1), ((300, 2), -1)]
)
@pytest.mark.parametrize("name", OURS)
def test_parts_of_every_layout_make_up_the_whole(run, name, shape, class_dim, part):
    divergence = Divergence(name, class_dim=-1 if name == "bernoulli_kl" else class_dim)
    arguments = (divergence, logits(*shape), logits(*shape, seed=1))
    torch.testing.assert_close(run(part, *arguments), run(WHOLE, *arguments), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parts_are_as_precise_as_the_whole(run, name, dtype):
    arguments = [
        Divergence(name, temperature=1 if "mse" in name else 2.0),
        logits(40, 300).to(dtype),
        logits(40, 300, seed=1).to(dtype),
    ]
    (term, gradient), (expected, expected_gradient) = run(1000, *arguments), run(WHOLE, *arguments)
    torch.testing.assert_close(term, expected, rtol=1e-6, atol=1e-6)
    assert gradient.dtype == expected_gradient.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("name", OURS)
def test_parts_of_logits_that_are_views_are_those_of_their_copies(run, name):
    divergence = Divergence(name)
    student = logits(3, 9, 8)[:, 1:].transpose(0, 1)
    teacher = logits(1, 3, 8, seed=1).expand(8, 3, 8)
    torch.testing.assert_close(
        run(20, divergence, student, teacher),
        run(WHOLE, divergence, student.contiguous(), teacher.contiguous()),
    )


# What a position may hold, in the student and in the teacher.
ODD_POSITIONS = {
    "student rules a class out": ([0, -INF, 2, 1], [0, 1, 2, 1]),
    "teacher rules a class out": ([0, 1, 2, 3], [0, -INF, 1, 2]),
    "both do": ([0, -INF, 2, 3], [1, -INF, 2, 3]),
    "student has no class": ([-INF] * 4, [0, 1, 2, 3]),
    "teacher has no class": ([0, 1, 2, 3], [-INF] * 4),
    "neither has": ([-INF] * 4, [-INF] * 4),
    "student is not a number": ([0, NAN, 1, 2], [0, 1, 2, 3]),
    "teacher is not a number": ([0, 1, 2, 3], [0, NAN, 1, 2]),
    "student is infinite": ([0, INF, 1, 2], [0, 1, 2, 3]),
    "teacher is infinite": ([0, 1, 2, 3], [0, INF, 1, 2]),
    "a probability is too small for a number": ([0, -INF, 1, 2], [0, -2000, 1, 2]),
    "all but one are": ([0, -2000, 1, 2], [0, 2000, 1, 2]),
    "the largest numbers": ([3e38, -3e38, 0, 1], [0, 1, 2, 3]),
}


@pytest.mark.parametrize("kind", ODD_POSITIONS)
@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "jensen_shannon", "logit_mse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odd_positions_count_in_parts_as_in_the_whole(run, kind, name, dtype):
    student, teacher = (
        torch.tensor([position, [0.0, 1, 2, 3]], dtype=dtype) for position in ODD_POSITIONS[kind]
    )
    arguments = (Divergence(name), student, teacher)
    torch.testing.assert_close(run(4, *arguments), run(WHOLE, *arguments), equal_nan=True)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("combine", ["losses", "probabilities", "logits"])
def test_no_float32_copy_of_large_logits_is_made(monkeypatch, name, combine):
    if (combine, "mse" in name) == ("probabilities", True):
        return
    monkeypatch.setattr(chunked, "_PART", 2000)
    student = logits(100, 300).bfloat16().requires_grad_()
    teachers = [DenseTarget(logits(100, 300, seed=seed).bfloat16()) for seed in (1, 2)]
    mask = torch.arange(100) % 2 == 0
    if name == "bernoulli_kl":
        mask = mask[:, None].expand(100, 300)
    with LargestTensor() as largest:
        distillation_term(
            Divergence(name), student, teachers, combine=combine, mask=mask, shares=[0.5, torch.tensor(0.2)]
        ).backward()
    # Two logarithms a logit for the one of these that is about coins.
    assert 0 < largest.elements <= 4000
    assert student.grad.dtype == torch.bfloat16


def test_no_float32_copy_is_made_beside_sparse_teachers(monkeypatch):
    monkeypatch.setattr(chunked, "_PART", 2000)
    student = logits(100, 300).bfloat16().requires_grad_()
    targets = [sample_top_k(logits(100, 300, seed=seed), k=4, sampled=2) for seed in (1, 2)]
    with LargestTensor() as largest:
        distillation_term(Divergence("kl"), student, targets).backward()
    assert 0 < largest.elements <= 2000


@pytest.mark.parametrize("name", ["kl", "jensen_shannon"])
def test_a_backward_may_be_repeated(monkeypatch, name):
    monkeypatch.setattr(chunked, "_PART", 8)
    student = logits(6, 5).requires_grad_()
    term = distillation_term(Divergence(name), student, [DenseTarget(logits(6, 5, seed=1))])
    (first,) = torch.autograd.grad(term, student, retain_graph=True)
    (second,) = torch.autograd.grad(3 * term, student)
    torch.testing.assert_close(second, 3 * first)


@pytest.mark.parametrize("changed", ["student", "dense", "sparse", "mask"])
def test_logits_that_somebody_writes_to_before_the_backward_are_an_error(monkeypatch, changed):
    monkeypatch.setattr(chunked, "_PART", 8)
    student, teacher, mask = logits(6, 5).requires_grad_(), logits(6, 5, seed=1), torch.ones(6).bool()
    sparse = sample_top_k(teacher, k=3, sampled=1)
    own = student.clone()
    term = distillation_term(Divergence("kl"), own, [DenseTarget(teacher), sparse], mask=mask)
    {"student": own.detach(), "dense": teacher, "sparse": sparse.weights, "mask": mask}[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        term.backward()


@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "jensen_shannon", "logit_mse"])
def test_first_and_second_derivatives_are_right(monkeypatch, name):
    monkeypatch.setattr(chunked, "_PART", 8)
    teacher, mask = DenseTarget(logits(4, 3, seed=1)), torch.tensor([True, False, True, True])

    def term(student: Tensor) -> Tensor:
        return distillation_term(Divergence(name), student, [teacher], mask=mask, shares=[0.5])

    student = logits(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(term, student)
    assert torch.autograd.gradgradcheck(term, student)


def test_functional_derivatives_are_those_of_autograd(monkeypatch):
    monkeypatch.setattr(chunked, "_PART", 8)

    def term(student: Tensor) -> Tensor:
        return distillation_term(Divergence("kl"), student, [DenseTarget(logits(6, 5, seed=1))])

    student = logits(6, 5).requires_grad_()
    (expected,) = torch.autograd.grad(term(student), student)
    torch.testing.assert_close(torch.func.grad(term)(student.detach()), expected)


def test_without_gradients_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(chunked, "_PART", 8)
    student, target = logits(6, 5).requires_grad_(), DenseTarget(logits(6, 5, seed=1))
    with torch.no_grad():
        assert not distillation_term(Divergence("kl"), student, [target]).requires_grad


def test_a_function_of_ones_own_sees_all_positions_at_once(run):
    seen = []

    def from_the_mean_position(student: Tensor, teacher: Tensor) -> Tensor:
        seen.append(student.shape)
        return (student - student.mean(0) - teacher).square().sum(-1)

    run(1, Divergence(from_the_mean_position), logits(6, 5), logits(6, 5, seed=1))
    assert seen == [(6, 5)]


@pytest.mark.parametrize("reason", ["compiled", "subclass"])
def test_what_others_take_apart_is_left_whole(run, monkeypatch, reason):
    calls = []
    monkeypatch.setattr(chunked.Comparison, "at", lambda *_: calls.append(1))
    student = logits(6, 5)
    if reason == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    else:
        student = student.as_subclass(type("Sharded", (Tensor,), {}))
    run(1, Divergence("kl"), student, logits(6, 5, seed=1))
    assert not calls

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from codistill.losses import (
    Divergence,
    SparseTarget,
    distillation_term,
    sample_top_k,
    validate_sparse,
)
from codistill.losses import draws as draws_module
from codistill.losses.sparse import sparse_divergence

LINEAR = ("kl", "soft_cross_entropy")
INF = math.inf


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense_weights(target: SparseTarget) -> Tensor:
    """The distribution that a target stands for, with its classes last."""
    zeros = torch.zeros(*target.entropy.shape, target.class_count)
    return zeros.scatter_add(-1, target.classes, target.weights)


def all_classes(teacher: Tensor, temperature: float = 1.0, class_dim: int = -1) -> SparseTarget:
    return sample_top_k(
        teacher, k=teacher.shape[class_dim], sampled=0, temperature=temperature, class_dim=class_dim
    )


@pytest.mark.parametrize("classes", [7, 64, 65, 200, 50_257])
@pytest.mark.parametrize(("k", "sampled"), [(5, 2), (6, 1), (6, 6)])
def test_the_largest_are_kept_and_the_draws_share_what_is_left(classes, k, sampled):
    teacher = logits(3, classes)
    target = sample_top_k(teacher, k=k, sampled=sampled, generator=generator())
    p = teacher.softmax(-1)
    largest = p.topk(k - sampled)
    assert torch.equal(target.classes[:, : k - sampled], largest.indices)
    torch.testing.assert_close(target.weights[:, : k - sampled], largest.values.float())
    rest = (1 - largest.values.sum(-1, keepdim=True)).float()
    torch.testing.assert_close(target.weights[:, k - sampled :], (rest / sampled).expand(-1, sampled))
    drawn = target.classes[:, k - sampled :]
    assert not (drawn.unsqueeze(-1) == largest.indices.unsqueeze(-2)).any()
    assert ((drawn >= 0) & (drawn < classes)).all()
    torch.testing.assert_close(target.weights.sum(-1), torch.ones(3))
    torch.testing.assert_close(target.entropy, -(p * p.log()).sum(-1).float())
    assert (target.temperature, target.class_count) == (1.0, classes)


@pytest.mark.parametrize(("classes", "exact", "sampled"), [(5, 0, 4), (5, 2, 2), (150, 0, 8), (150, 3, 8)])
def test_draws_come_as_often_as_they_are_probable(classes, exact, sampled):
    rows = 4000
    teacher = logits(1, classes)
    p = (teacher / 1.5).softmax(-1)[0]
    p[p.topk(exact).indices] = 0.0
    expected = p / p.sum() * rows * sampled
    target = sample_top_k(
        teacher.expand(rows, -1),
        k=exact + sampled,
        sampled=sampled,
        temperature=1.5,
        generator=generator(),
    )
    counts = target.classes[:, exact:].flatten().bincount(minlength=classes)
    # A normal bound, and a few more for what is too rare to be normal.
    assert ((counts - expected).abs() <= 4.5 * expected.sqrt() + 3 * (expected > 0)).all()


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("k", "sampled"), [(4, 2), (3, 3), (6, 1)])
def test_value_and_gradient_are_those_of_the_whole_distribution_on_average(name, temperature, k, sampled):
    rows, classes = 6000, 90
    divergence = Divergence(name, temperature=temperature)
    student, teacher = logits(1, classes), logits(1, classes, seed=1)
    target = sample_top_k(
        teacher.expand(rows, -1), k=k, sampled=sampled, temperature=temperature, generator=generator()
    )
    leaf = student.expand(rows, -1).clone().requires_grad_()
    values = sparse_divergence(divergence, leaf, target)
    (gradients,) = torch.autograd.grad(values.sum(), leaf)

    student.requires_grad_()
    expected = divergence(student, teacher)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), student)

    standard_error = values.std() / math.sqrt(rows)
    assert (values.mean() - expected).abs() <= 4.5 * standard_error
    # How often a class is drawn is binomial; what one draw adds to the mean gradient is this:
    p = (teacher / temperature).softmax(-1)[0]
    p[p.topk(k - sampled).indices] = 0.0
    one_draw = temperature * p.sum() / (rows * sampled)
    bound = one_draw * (4.5 * (p / p.sum() * rows * sampled).sqrt() + 3) + 1e-6
    assert ((gradients.mean(0) - expected_gradient[0]).abs() <= bound).all()

    # The largest alone, renormalised, are further off than chance.
    largest = (teacher / temperature).softmax(-1).topk(k)
    renormalised = (largest.values / largest.values.sum()).float()
    biased = dataclasses.replace(
        target,
        classes=largest.indices,
        weights=renormalised,
        entropy=target.entropy[:1],
    )
    (gradient,) = torch.autograd.grad(sparse_divergence(divergence, student, biased).sum(), student)
    assert ((gradient - expected_gradient)[0].abs() > 3 * bound).any()


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(("shape", "class_dim"), [((4, 5), -1), ((2, 3, 5), -1), ((2, 5, 3, 4), 1)])
def test_all_classes_are_the_whole_distribution(name, shape, class_dim):
    divergence = Divergence(name, temperature=2.0, class_dim=class_dim)
    student, teacher = logits(*shape).requires_grad_(), logits(*shape, seed=1)
    target = all_classes(teacher, 2.0, class_dim)
    assert target.logits_shape(class_dim) == shape
    results = []
    for values in (sparse_divergence(divergence, student, target), divergence(student, teacher)):
        results.append((values, *torch.autograd.grad(values.sum(), student)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [5, 9])
def test_no_class_is_drawn_if_k_takes_them_all(k):
    target = sample_top_k(logits(3, 5), k=k, sampled=2)
    assert torch.equal(target.classes, torch.arange(5).expand(3, 5))
    torch.testing.assert_close(target.weights, logits(3, 5).softmax(-1).float())


def test_classes_may_be_in_any_dimension():
    teacher = logits(2, 9, 3)
    middle = sample_top_k(teacher, k=4, sampled=2, class_dim=1, generator=generator())
    last = sample_top_k(teacher.movedim(1, -1), k=4, sampled=2, generator=generator())
    assert torch.equal(middle.classes, last.classes)
    assert torch.equal(middle.weights, last.weights)
    assert middle.classes.shape == (2, 3, 4)
    assert middle.logits_shape(1) == middle.logits_shape(-2) == (2, 9, 3)
    assert middle.logits_shape(-1) == (2, 3, 9)


def test_the_generator_alone_decides_on_the_draws(monkeypatch):
    teacher = logits(40, 30)
    state = torch.random.get_rng_state()
    first = sample_top_k(teacher, k=6, sampled=4, generator=generator(3))
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setattr(draws_module, "_ELEMENTS", 70)  # two positions at a time
    again = sample_top_k(teacher, k=6, sampled=4, generator=generator(3))
    assert torch.equal(first.classes, again.classes)
    assert torch.equal(first.weights, again.weights)
    other = sample_top_k(teacher, k=6, sampled=4, generator=generator(4))
    assert not torch.equal(first.classes, other.classes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype):
    teacher = logits(4, 70).to(dtype)
    target = sample_top_k(teacher, k=6, sampled=3, temperature=0.7, generator=generator())
    precise = sample_top_k(teacher.float(), k=6, sampled=3, temperature=0.7, generator=generator())
    for name in ("classes", "weights", "entropy"):
        assert torch.equal(getattr(target, name), getattr(precise, name))
    assert (target.weights.dtype, target.entropy.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("exact", [0, 1, 3])
def test_a_class_at_minus_infinity_is_never_drawn(exact):
    teacher = logits(500, 100)
    allowed = torch.arange(100) % 9 == 0
    target = sample_top_k(teacher.masked_fill(~allowed, -INF), k=exact + 5, sampled=5, generator=generator())
    assert allowed[target.classes].all()
    torch.testing.assert_close(target.weights.sum(-1), torch.ones(500))


@pytest.mark.parametrize(("exact", "possible"), [(1, 1), (3, 3), (4, 2), (70, 2)])
def test_where_nothing_is_left_the_draws_weigh_nothing(exact, possible):
    teacher = logits(3, 100).masked_fill(torch.arange(100) >= possible, -INF)
    target = sample_top_k(teacher, k=exact + 2, sampled=2, generator=generator())
    assert (target.classes < 100).all()
    assert (target.weights[:, exact:] == 0).all()
    torch.testing.assert_close(dense_weights(target), teacher.softmax(-1).float())
    student = logits(3, 100, seed=1).masked_fill(torch.arange(100) >= possible, -INF)
    torch.testing.assert_close(
        sparse_divergence(Divergence("kl"), student, target),
        Divergence("kl")(student, teacher),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_sure_teacher_leaves_the_others_their_tiny_mass():
    # 1 less the largest would be 0 in float32, and what is left would be lost.
    teacher = torch.zeros(2, 50)
    teacher[:, 7] = 25.0
    target = sample_top_k(teacher, k=4, sampled=2, generator=generator())
    # The largest and the first of the others are kept.
    expected = torch.full((2, 2), 48 / 2 * math.exp(-25))
    torch.testing.assert_close(target.weights[:, 2:], expected, rtol=1e-5, atol=0.0)


def test_ties_are_broken_into_different_classes():
    target = sample_top_k(torch.zeros(3, 200), k=8, sampled=2, generator=generator())
    assert all(len(set(row)) == 6 for row in target.classes[:, :6].tolist())
    torch.testing.assert_close(target.weights[:, :6], torch.full((3, 6), 1 / 200))
    torch.testing.assert_close(target.weights[:, 6:], torch.full((3, 2), 194 / 400))


@pytest.mark.parametrize("k", [3, 100])
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_a_position_that_is_not_a_number_says_so_and_no_other_does(k, bad):
    teacher = logits(3, 80)
    teacher[1, 50] = bad
    target = sample_top_k(teacher, k=k, sampled=2, generator=generator())
    assert target.weights[1].isnan().all()
    assert target.entropy[1].isnan()
    assert target.weights[[0, 2]].isfinite().all()
    assert target.entropy[[0, 2]].isfinite().all()
    assert ((target.classes >= 0) & (target.classes < 80)).all()


@pytest.mark.parametrize("k", [3, 100])
def test_a_position_without_any_class_counts_zero(k):
    teacher = logits(2, 80)
    teacher[0] = -INF
    target = sample_top_k(teacher, k=k, sampled=2, generator=generator())
    assert (target.weights[0] == 0).all()
    assert target.entropy[0] == 0
    student = logits(2, 80, seed=1)
    student[0] = -INF
    student.requires_grad_()
    values = sparse_divergence(Divergence("kl"), student, target)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert values[0] == 0
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()


def test_an_empty_batch_has_no_draws():
    target = sample_top_k(torch.zeros(0, 30), k=4, sampled=2)
    assert target.classes.shape == target.weights.shape == (0, 4)


def test_a_class_that_the_student_alone_rules_out_is_infinite_as_with_all_logits():
    student, teacher = torch.tensor([[0.0, -INF, 1.0]]), torch.tensor([[3.0, 4.0, 0.0]])
    target = sample_top_k(teacher, k=2, sampled=1, generator=generator())
    assert sparse_divergence(Divergence("kl"), student, target).tolist() == [INF]


def test_no_gradient_reaches_the_teacher():
    teacher, student = logits(3, 9).requires_grad_(), logits(3, 9, seed=1).requires_grad_()
    target = sample_top_k(teacher, k=4, sampled=2)
    distillation_term(Divergence("kl"), student, [target]).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_k_and_sampled_must_be_able_to_stand_for_all_classes():
    teacher = logits(3, 9)
    with pytest.raises(ValueError, match="sampled must be >= 1 for k=4 of 9 classes, got 0"):
        sample_top_k(teacher, k=4, sampled=0)
    with pytest.raises(ValueError, match="sampled must be from 0 to k, 4, got 5"):
        sample_top_k(teacher, k=4, sampled=5)
    with pytest.raises(ValueError, match="sampled must be from 0 to k, 4, got -1"):
        sample_top_k(teacher, k=4, sampled=-1)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        sample_top_k(teacher, k=0, sampled=0)
    for k, sampled in ((2.0, 1), (2, True)):
        with pytest.raises(TypeError, match="must be an int"):
            sample_top_k(teacher, k=k, sampled=sampled)


def test_logits_without_classes_are_refused():
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor, got torch\.int64"):
        sample_top_k(torch.zeros(3, 4, dtype=torch.int64), k=2, sampled=1)
    with pytest.raises(ValueError, match="at least 2 classes"):
        sample_top_k(torch.zeros(3, 1), k=2, sampled=1)
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        sample_top_k(torch.zeros(3, 4), k=2, sampled=1, temperature=0.0)


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("classes", torch.zeros(3, 2, dtype=torch.int32), TypeError, r"int64 tensor, got torch\.int32"),
        ("weights", torch.zeros(3, 2, dtype=torch.float64), TypeError, r"float32 tensor, got torch\.float64"),
        ("entropy", None, TypeError, "float32 tensor, got NoneType"),
        ("weights", torch.zeros(3, 1), ValueError, r"weights must be one for each class, .* got \[3, 1\]"),
        ("entropy", torch.zeros(2), ValueError, r"entropy must be one a position, \[3\], got \[2\]"),
        ("temperature", 0.0, ValueError, "temperature must be a finite number > 0"),
        ("class_count", 1, ValueError, "class_count must be >= 2, got 1"),
        ("class_count", 2.0, TypeError, "class_count must be an int"),
    ],
)
def test_a_target_whose_parts_do_not_fit_is_refused(field, value, error, message):
    good = sample_top_k(torch.zeros(3, 5), k=2, sampled=1)
    with pytest.raises(error, match=message):
        dataclasses.replace(good, **{field: value})


@pytest.mark.parametrize(
    "name", ["reverse_kl", "symmetric_kl", "jensen_shannon", "logit_mse", "centred_logit_mse", "bernoulli_kl"]
)
def test_a_loss_that_is_not_linear_in_the_teacher_is_refused(name):
    assert not Divergence(name).takes_sparse
    with pytest.raises(ValueError, match=f"'kl' or 'soft_cross_entropy' for sparse teachers, got '{name}'"):
        validate_sparse(Divergence(name), "losses", 1)


def test_a_function_of_ones_own_takes_no_sparse_teacher():
    divergence = Divergence(lambda s, t: (s - t).sum(-1), acts_on="probabilities")
    with pytest.raises(ValueError, match="for sparse teachers, got '<lambda>'"):
        distillation_term(divergence, logits(3, 5), [all_classes(logits(3, 5))])


@pytest.mark.parametrize("teachers", [1, 2, None])
def test_ways_to_combine_sparse_teachers_that_are_biased_are_refused(teachers):
    for name in LINEAR:
        validate_sparse(Divergence(name), "losses", teachers)
        with pytest.raises(ValueError, match="'losses' or 'probabilities' for sparse teachers, got 'logits'"):
            validate_sparse(Divergence(name), "logits", teachers)
    validate_sparse(Divergence("soft_cross_entropy"), "probabilities", teachers)
    if teachers == 1:
        validate_sparse(Divergence("kl"), "probabilities", teachers)
    else:
        with pytest.raises(ValueError, match="distillation_loss='soft_cross_entropy', which has the same"):
            validate_sparse(Divergence("kl"), "probabilities", teachers)

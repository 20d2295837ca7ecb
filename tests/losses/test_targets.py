import math

import pytest
import torch
from torch import Tensor

from codistill.losses import (
    DenseTarget,
    Divergence,
    SparseTarget,
    chunked,
    distillation_term,
    kl_divergence,
    sample_top_k,
    validate_combine,
)

COMBINES = ("losses", "probabilities", "logits")


@pytest.fixture(autouse=True, params=[None, 7], ids=["whole", "in_parts"])
def part_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here is so whether the logits are gone through at once or in parts."""
    if request.param is not None:
        monkeypatch.setattr(chunked, "_PART", request.param)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def targets(*teachers: Tensor) -> list[DenseTarget]:
    return [DenseTarget(teacher) for teacher in teachers]


def three(*shape: int) -> list[Tensor]:
    return [logits(*shape, seed=seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize(
    ("shape", "class_dim"), [((4, 3), -1), ((2, 5, 3), -1), ((2, 3, 4, 5), 1)], ids=["BC", "BTC", "BCHW"]
)
def test_the_default_is_the_mean_over_positions_of_every_layout(shape, class_dim):
    divergence = Divergence("kl", class_dim=class_dim)
    student, teacher = logits(*shape), logits(*shape, seed=1)
    p, q = teacher.softmax(class_dim), student.softmax(class_dim)
    expected = (p * (p / q).log()).sum() / (p.numel() / 3)
    torch.testing.assert_close(distillation_term(divergence, student, targets(teacher)), expected)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4)])
def test_the_default_is_the_mean_over_positions_of_one_logit_each(shape):
    student, teacher = logits(*shape), logits(*shape, seed=1)
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(
        distillation_term(Divergence("bernoulli_kl"), student, targets(teacher)), expected
    )


def test_the_term_is_a_scalar_in_float32_for_half_precision():
    student = logits(4, 3).bfloat16().requires_grad_()
    term = distillation_term(Divergence("kl"), student, targets(logits(4, 3, seed=1).bfloat16()))
    assert (term.shape, term.dtype) == ((), torch.float32)


def test_losses_is_the_mean_of_the_losses():
    student, teachers = logits(4, 5), three(4, 5)
    term = distillation_term(Divergence("kl", temperature=2.0), student, targets(*teachers))
    expected = sum(kl_divergence(student, teacher, temperature=2.0).mean() for teacher in teachers) / 3
    torch.testing.assert_close(term, expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_is_the_loss_against_the_mean_distribution_at_the_losss_temperature(temperature):
    student, teachers = logits(4, 5), three(4, 5)
    divergence = Divergence("kl", temperature=temperature)
    term = distillation_term(divergence, student, targets(*teachers), combine="probabilities")
    p = torch.stack([(teacher / temperature).softmax(-1) for teacher in teachers]).mean(0)
    q = (student / temperature).softmax(-1)
    torch.testing.assert_close(term, (p * (p / q).log()).sum(-1).mean() * temperature**2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_of_one_logit_is_the_loss_against_the_mean_of_the_sigmoids(temperature):
    student, teachers = logits(6), three(6)
    divergence = Divergence("bernoulli_kl", temperature=temperature)
    term = distillation_term(divergence, student, targets(*teachers), combine="probabilities")
    p = torch.stack([(teacher / temperature).sigmoid() for teacher in teachers]).mean(0)
    q = (student / temperature).sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * temperature**2
    torch.testing.assert_close(term, expected)


def test_logits_is_the_loss_against_the_mean_logits():
    student, teachers = logits(4, 5), three(4, 5)
    term = distillation_term(Divergence("logit_mse"), student, targets(*teachers), combine="logits")
    torch.testing.assert_close(term, (student - torch.stack(teachers).mean(0)).square().mean())


def test_the_mean_of_probabilities_is_not_the_mean_of_logits():
    # Two teachers that are sure of different classes: mean logits are undecided between the two ...
    student, teachers = torch.zeros(1, 3), [torch.tensor([[9.0, 0, 0]]), torch.tensor([[0, 1.0, 0]])]
    terms = {
        combine: distillation_term(Divergence("kl"), student, targets(*teachers), combine=combine).item()
        for combine in COMBINES
    }
    assert len({round(term, 3) for term in terms.values()}) == 3
    # ... and by Jensen's inequality the mean distribution is closer than the distributions on average.
    assert terms["probabilities"] < terms["losses"]


def test_mean_logits_do_not_depend_on_what_memory_held_before():
    # An accumulator that starts uninitialised gives other numbers once the allocator hands back used memory.
    student, teachers = logits(64, 50), three(64, 50)
    expected = kl_divergence(student, torch.stack(teachers).mean(0)).mean()
    for garbage in (1e30, math.nan):
        torch.full((64, 50), garbage, dtype=torch.float64)
        term = distillation_term(Divergence("kl"), student, targets(*teachers), combine="logits")
        torch.testing.assert_close(term, expected)


@pytest.mark.parametrize("name", ["kl", "symmetric_kl", "jensen_shannon", "bernoulli_kl"])
def test_with_one_teacher_every_way_to_combine_is_the_same_to_the_bit(name):
    divergence = Divergence(name, temperature=1.7)
    results = []
    for combine in COMBINES:
        student = logits(5, 4).float().requires_grad_()
        term = distillation_term(divergence, student, targets(logits(5, 4, seed=1).float()), combine=combine)
        (gradient,) = torch.autograd.grad(term, student)
        results.append((term, gradient))
    assert all(torch.equal(term, results[0][0]) for term, _ in results)
    assert all(torch.equal(gradient, results[0][1]) for _, gradient in results)


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon", "soft_cross_entropy", "bernoulli_kl"])
def test_several_equal_teachers_are_as_one(name, combine):
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    divergence = Divergence(name, temperature=2.0)
    torch.testing.assert_close(
        distillation_term(divergence, student, targets(teacher, teacher, teacher), combine=combine),
        distillation_term(divergence, student, targets(teacher)),
    )


@pytest.mark.parametrize("combine", COMBINES)
def test_half_precision_teachers_are_combined_in_float32(combine):
    student, teachers = logits(4, 5).float(), [teacher.bfloat16() for teacher in three(4, 5)]
    precise = [teacher.float() for teacher in teachers]
    terms = [
        distillation_term(Divergence("kl"), student, targets(*each), combine=combine)
        for each in (teachers, precise)
    ]
    assert torch.equal(*terms)


@pytest.mark.parametrize("combine", COMBINES)
def test_no_gradient_reaches_any_teacher(combine):
    student = logits(4, 5).requires_grad_()
    teachers = [teacher.requires_grad_() for teacher in three(4, 5)]
    distillation_term(Divergence("kl"), student, targets(*teachers), combine=combine).backward()
    assert student.grad is not None
    assert all(teacher.grad is None for teacher in teachers)


@pytest.mark.parametrize("combine", COMBINES)
def test_the_whole_term_has_a_right_gradient(combine):
    mask = torch.tensor([[True, False, True], [True, True, False]])
    teachers = targets(*three(2, 3, 4))

    def term(student: Tensor) -> Tensor:
        return distillation_term(
            Divergence("kl", temperature=2.0), student, teachers, combine=combine, mask=mask, denominator=5
        )

    assert torch.autograd.gradcheck(term, logits(2, 3, 4).requires_grad_())


@pytest.mark.parametrize("combine", COMBINES)
def test_classes_at_minus_infinity_in_all_count_zero_when_teachers_are_combined(combine):
    ruled_out = torch.tensor([False, True, False, False])
    student = logits(3, 4).masked_fill(ruled_out, -math.inf).requires_grad_()
    teachers = [teacher.masked_fill(ruled_out, -math.inf) for teacher in three(3, 4)]
    term = distillation_term(Divergence("kl"), student, targets(*teachers), combine=combine)
    (gradient,) = torch.autograd.grad(term, student)
    kept = [tensor[:, ~ruled_out] for tensor in (student.detach(), *teachers)]
    expected = distillation_term(Divergence("kl"), kept[0], targets(*kept[1:]), combine=combine)
    torch.testing.assert_close(term.detach(), expected)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[:, 1], torch.zeros(3, dtype=torch.float64))


def test_by_default_the_sum_is_divided_by_the_positions_that_count():
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    mask = torch.tensor([[True, True, False], [False, True, False]])
    term = distillation_term(Divergence("kl"), student, targets(teacher), mask=mask)
    torch.testing.assert_close(term, kl_divergence(student, teacher)[mask].sum() / 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "shape", "class_dim"),
    [("kl", (2, 4, 3), 1), ("bernoulli_kl", (2, 3), -1), ("logit_mse", (2, 3, 4), -1)],
)
def test_masked_positions_count_exactly_zero_whatever_is_there(name, shape, class_dim, bad):
    divergence = Divergence(name, class_dim=class_dim)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    spoiled = ~mask if name == "bernoulli_kl" else (~mask).unsqueeze(class_dim).expand(shape)
    student, teacher = logits(*shape), logits(*shape, seed=1)
    results = []
    for filler in (0.0, bad):
        leaf = student.masked_fill(spoiled, filler).requires_grad_()
        term = distillation_term(divergence, leaf, targets(teacher.masked_fill(spoiled, filler)), mask=mask)
        (gradient,) = torch.autograd.grad(term, leaf)
        results.append((term, gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[1][1][spoiled] == 0).all()
    assert (results[1][1][~spoiled] != 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("spoiled", ["student", "teacher"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_masked_nan_does_not_even_pass_through_the_backward(spoiled, is_sparse):
    student, teacher = logits(2, 3), logits(2, 3, seed=1)
    (student if spoiled == "student" else teacher)[0] = math.nan
    student.requires_grad_()
    divergence = Divergence("kl" if is_sparse else "reverse_kl")
    target = sparse(teacher) if is_sparse else DenseTarget(teacher)
    with torch.autograd.detect_anomaly():
        distillation_term(divergence, student, [target], mask=torch.tensor([False, True])).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "logit_mse"])
@pytest.mark.parametrize("denominator", [None, 7])
def test_an_empty_mask_is_an_exact_zero_with_a_graph(name, denominator):
    student = torch.full((2, 3), math.nan, requires_grad=True)
    term = distillation_term(
        Divergence(name),
        student,
        targets(torch.zeros(2, 3)),
        mask=torch.zeros(2, dtype=torch.bool),
        denominator=denominator,
    )
    term.backward()
    assert term.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(2, 3))


def test_an_empty_batch_is_an_exact_zero_with_a_graph():
    student = torch.zeros(0, 3, requires_grad=True)
    term = distillation_term(Divergence("kl"), student, targets(torch.zeros(0, 3)))
    term.backward()
    assert term.item() == 0.0


@pytest.mark.parametrize("denominator", [10, 2.5, torch.tensor(10), torch.tensor(2.5)])
def test_the_denominator_replaces_the_number_of_positions(denominator):
    student, teacher = logits(4, 3), logits(4, 3, seed=1)
    term = distillation_term(Divergence("kl"), student, targets(teacher), denominator=denominator)
    torch.testing.assert_close(term, kl_divergence(student, teacher).sum() / float(denominator))


def test_with_the_global_count_over_world_size_the_mean_over_ranks_is_the_mean_over_valid_positions():
    student, teacher = logits(2, 4, 3), logits(2, 4, 3, seed=1)
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    whole = distillation_term(Divergence("kl"), student, targets(teacher), mask=mask)
    ranks = [
        distillation_term(
            Divergence("kl"), student[r], targets(teacher[r]), mask=mask[r], denominator=mask.sum() / 2
        )
        for r in range(2)
    ]
    torch.testing.assert_close(sum(ranks) / 2, whole)


@pytest.mark.parametrize("denominator", [0, -1, math.nan, math.inf])
def test_a_denominator_that_is_not_above_zero_is_refused(denominator):
    with pytest.raises(ValueError, match="denominator must be > 0"):
        distillation_term(Divergence("kl"), logits(4, 3), targets(logits(4, 3)), denominator=denominator)


def test_a_denominator_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"denominator must be a number or a 0-d tensor, got shape \[1\]"):
        distillation_term(Divergence("kl"), logits(4, 3), targets(logits(4, 3)), denominator=torch.ones(1))


def test_a_mask_must_be_boolean_and_of_the_shape_of_the_positions():
    student, target = logits(4, 3), targets(logits(4, 3))
    with pytest.raises(TypeError, match=r"mask must be a boolean tensor, got torch\.int64"):
        distillation_term(Divergence("kl"), student, target, mask=torch.ones(4, dtype=torch.int64))
    with pytest.raises(TypeError, match="mask must be a boolean tensor, got list"):
        distillation_term(Divergence("kl"), student, target, mask=[True] * 4)
    for shape in ((4, 1), (4, 3), (1,), ()):
        with pytest.raises(ValueError, match=r"mask must have one entry a position, \[4\]"):
            distillation_term(Divergence("kl"), student, target, mask=torch.ones(shape, dtype=torch.bool))


def test_no_teacher_is_refused():
    with pytest.raises(ValueError, match="targets must hold at least one"):
        distillation_term(Divergence("kl"), logits(4, 3), [])


@pytest.mark.parametrize("combine", COMBINES)
def test_a_teacher_of_another_shape_is_refused_and_both_shapes_are_named(combine):
    broadcastable = targets(logits(4, 3), logits(1, 3))
    with pytest.raises(ValueError, match=r"targets\[1\] must have the shape .*\[4, 3\], got \[1, 3\]"):
        distillation_term(Divergence("kl"), logits(4, 3), broadcastable, combine=combine)


def test_a_target_must_be_a_floating_point_tensor():
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor, got torch\.int64"):
        DenseTarget(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="logits must be a floating-point tensor, got dict"):
        DenseTarget({"logits": torch.zeros(3)})


def test_a_mean_distribution_is_refused_for_losses_that_act_on_logits():
    for divergence in (Divergence("logit_mse"), Divergence(lambda s, t: (s - t).sum(-1))):
        with pytest.raises(ValueError, match="combine must be 'losses' or 'logits'"):
            validate_combine(divergence, "probabilities")
        with pytest.raises(ValueError, match="combine must be 'losses' or 'logits'"):
            distillation_term(divergence, logits(2, 3), targets(logits(2, 3)), combine="probabilities")
        validate_combine(divergence, "losses")
        validate_combine(divergence, "logits")


def test_an_unknown_way_to_combine_lists_those_there_are():
    with pytest.raises(ValueError, match="'losses', 'probabilities', 'logits', got 'mean'"):
        validate_combine(Divergence("kl"), "mean")


def by_hand(combine, student, teachers, shares, mask):
    """The textbook: means over teachers weighted by share, times min(1, sum of the shares)."""
    total = sum(shares)
    if combine == "losses":
        q = student.log_softmax(-1)
        each = [(t.softmax(-1) * (t.log_softmax(-1) - q)).sum(-1) for t in teachers]
        values = sum(a * d for a, d in zip(shares, each, strict=True)) / total
    elif combine == "probabilities":
        p = sum(a * t.softmax(-1) for a, t in zip(shares, teachers, strict=True)) / total
        values = (p * (p.log() - student.log_softmax(-1))).sum(-1)
    else:
        mean = sum(a * t for a, t in zip(shares, teachers, strict=True)) / total
        values = (mean.softmax(-1) * (mean.log_softmax(-1) - student.log_softmax(-1))).sum(-1)
    return min(1.0, total) * values[mask].sum() / mask.sum()


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize(
    "shares", [(0.3,), (0.25, 0.5), (1.0, 0.25), (0.0, 0.5), (0.1, 0.7, 0.9), (0.2, 0, 1)]
)
@pytest.mark.parametrize("kinds", ["floats", "tensors", "both"])
def test_shares_weigh_every_mean_and_the_term(combine, shares, kinds):
    mask = torch.tensor([True, False, True, True])
    teachers = three(4, 5)[: len(shares)]
    mixed = [
        torch.tensor(share) if kinds == "tensors" or (kinds == "both" and i % 2 == 0) else share
        for i, share in enumerate(shares)
    ]
    student = logits(4, 5).requires_grad_()
    term = distillation_term(
        Divergence("kl"), student, targets(*teachers), combine=combine, mask=mask, shares=mixed
    )
    (gradient,) = torch.autograd.grad(term, student)
    expected = by_hand(combine, student, teachers, [float(share) for share in mixed], mask)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    # A share in a float32 tensor has that precision.
    torch.testing.assert_close((term, gradient), (expected, expected_gradient), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_shares_weigh_the_mean_of_the_sigmoids_of_one_logit(temperature):
    student, teachers = logits(6), three(6)
    term = distillation_term(
        Divergence("bernoulli_kl", temperature=temperature),
        student,
        targets(*teachers),
        combine="probabilities",
        shares=(0.2, 0.1, torch.tensor(0.5)),
    )
    p = sum(a * (t / temperature).sigmoid() for a, t in zip((0.2, 0.1, 0.5), teachers, strict=True)) / 0.8
    q = (student / temperature).sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * temperature**2
    torch.testing.assert_close(term, 0.8 * expected)


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_one_each_are_as_none_to_the_bit(combine, count):
    results = []
    for shares in (None, [1.0] * count, [1] * count, [*[1.0] * count, 0.0]):
        student = logits(4, 5).float().requires_grad_()
        teachers = [teacher.float() for teacher in three(4, 5)[:count]]
        if shares is not None and len(shares) > count:
            teachers.append(torch.full((4, 5), math.nan))
        term = distillation_term(
            Divergence("kl", temperature=1.7), student, targets(*teachers), combine=combine, shares=shares
        )
        results.append((term, *torch.autograd.grad(term, student)))
    for term, gradient in results[1:]:
        assert torch.equal(term, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("share", [0.3, torch.tensor(0.3)], ids=["float", "tensor"])
def test_with_one_teacher_the_term_is_multiplied_by_its_share_however_teachers_are_combined(combine, share):
    student, teacher = logits(4, 3), logits(4, 3, seed=1)
    arguments = (Divergence("kl"), student, targets(teacher))
    whole = distillation_term(*arguments, combine=combine)
    torch.testing.assert_close(
        distillation_term(*arguments, combine=combine, shares=[share]), float(share) * whole
    )


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("name", ["kl", "symmetric_kl", "jensen_shannon", "soft_cross_entropy"])
@pytest.mark.parametrize("zeros", [(0.0,), (torch.tensor(0.0),), (torch.tensor(0.0), 0.0, torch.tensor(0))])
def test_shares_of_zero_in_all_are_an_exact_zero_with_a_graph(combine, name, zeros):
    # A class that the student rules out and the teachers do not: their divergence is infinite.
    student = logits(4, 5).masked_fill(torch.arange(5) == 2, -math.inf).requires_grad_()
    teachers = targets(*three(4, 5)[: len(zeros)])
    term = distillation_term(Divergence(name), student, teachers, combine=combine, shares=zeros)
    term.backward()
    assert term.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(4, 5, dtype=torch.float64))


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("name", ["kl", "symmetric_kl", "bernoulli_kl", "logit_mse"])
@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_a_teacher_of_share_zero_contributes_exactly_nothing(combine, name, zero):
    if (combine, name) == ("probabilities", "logit_mse"):
        return
    results = []
    for absent in (logits(4, 5, seed=7), torch.zeros(4, 5), torch.full((4, 5), 1e30)):
        student = logits(4, 5).requires_grad_()
        teachers = targets(logits(4, 5, seed=1), absent.double(), logits(4, 5, seed=2))
        term = distillation_term(
            Divergence(name), student, teachers, combine=combine, shares=(0.5, zero, torch.tensor(0.25))
        )
        results.append((term, *torch.autograd.grad(term, student)))
    student = logits(4, 5).requires_grad_()
    present = targets(logits(4, 5, seed=1), logits(4, 5, seed=2))
    term = distillation_term(Divergence(name), student, present, combine=combine, shares=(0.5, 0.25))
    expected = (term, *torch.autograd.grad(term, student))
    for result in results:
        torch.testing.assert_close(result, expected)
        assert torch.equal(result[0], results[0][0])
        assert torch.equal(result[1], results[0][1])


@pytest.mark.parametrize("combine", COMBINES)
def test_ruled_out_classes_of_teachers_with_shares_count_zero(combine):
    ruled_out = torch.tensor([False, True, False, False])
    student = logits(3, 4).masked_fill(ruled_out, -math.inf).requires_grad_()
    teachers = [teacher.masked_fill(ruled_out, -math.inf) for teacher in three(3, 4)]
    teachers[2] = torch.zeros(3, 4, dtype=torch.float64)  # what stands in for logits that were not finite
    shares = [torch.tensor(share) for share in (0.5, 0.25, 0.0)]
    term = distillation_term(Divergence("kl"), student, targets(*teachers), combine=combine, shares=shares)
    (gradient,) = torch.autograd.grad(term, student)
    kept = [tensor[:, ~ruled_out] for tensor in (student.detach(), *teachers)]
    expected = distillation_term(
        Divergence("kl"), kept[0], targets(*kept[1:]), combine=combine, shares=shares
    )
    torch.testing.assert_close(term.detach(), expected)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[:, 1], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("combine", COMBINES)
def test_the_term_with_shares_has_a_right_gradient(combine):
    mask = torch.tensor([[True, False, True], [True, True, False]])
    teachers, shares = targets(*three(2, 3, 4)), (0.3, torch.tensor(0.1), torch.tensor(0.0))

    def term(student: Tensor) -> Tensor:
        return distillation_term(
            Divergence("kl", temperature=2.0), student, teachers, combine=combine, mask=mask, shares=shares
        )

    assert torch.autograd.gradcheck(term, logits(2, 3, 4).requires_grad_())


def test_no_gradient_reaches_a_share():
    share = torch.tensor(0.5, requires_grad=True)
    student = logits(4, 3).requires_grad_()
    distillation_term(Divergence("kl"), student, targets(logits(4, 3, seed=1)), shares=[share]).backward()
    assert student.grad is not None
    assert share.grad is None


def test_shares_must_be_one_number_for_each_target():
    arguments = (Divergence("kl"), logits(4, 3), targets(logits(4, 3)))
    with pytest.raises(ValueError, match="shares must be one for each of the 1 targets, got 2"):
        distillation_term(*arguments, shares=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"shares\[0\] must be a number or a 0-d tensor, got shape \[4\]"):
        distillation_term(*arguments, shares=[torch.ones(4)])
    for share in ("1", None, True):
        with pytest.raises(TypeError, match=r"shares\[0\] must be a number or a 0-d tensor, got"):
            distillation_term(*arguments, shares=[share])
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"shares\[0\] must be between 0 and 1"):
            distillation_term(*arguments, shares=[share])


def sparse(teacher: Tensor, temperature: float = 1.0, class_dim: int = -1) -> SparseTarget:
    """Return a target of all classes, which says what a dense one does."""
    return sample_top_k(
        teacher, k=teacher.shape[class_dim], sampled=0, temperature=temperature, class_dim=class_dim
    )


@pytest.mark.parametrize(
    ("name", "combine"), [("kl", "losses"), *(("soft_cross_entropy", c) for c in COMBINES[:2])]
)
@pytest.mark.parametrize(
    "shares", [None, (0.5, 0.25, 1.0), (0.0, torch.tensor(0.5), 0.1), (0.2, 0.1, torch.tensor(0))]
)
@pytest.mark.parametrize(("shape", "class_dim"), [((4, 5), -1), ((2, 5, 3), 1)])
def test_sparse_and_dense_teachers_are_combined_as_dense_ones_are(name, combine, shares, shape, class_dim):
    divergence = Divergence(name, temperature=2.0, class_dim=class_dim)
    teachers = three(*shape)
    positions = divergence.position_shape(teachers[0])
    mask = torch.arange(positions.numel()).view(positions) % 3 != 1
    mixed = [DenseTarget(teachers[0]), *(sparse(teacher, 2.0, class_dim) for teacher in teachers[1:])]
    results = []
    for each in (mixed, targets(*teachers)):
        student = logits(*shape).requires_grad_()
        term = distillation_term(divergence, student, each, combine=combine, mask=mask, shares=shares)
        results.append((term, *torch.autograd.grad(term, student)))
    # The weights of sparse targets are in float32.
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("combine", COMBINES[:2])
@pytest.mark.parametrize("share", [0.3, torch.tensor(0.3), torch.tensor(0.0)])
def test_one_sparse_teacher_is_combined_either_way(combine, share):
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    arguments = {"combine": combine, "shares": [share]}
    torch.testing.assert_close(
        distillation_term(Divergence("kl"), student, [sparse(teacher)], **arguments),
        distillation_term(Divergence("kl"), student, targets(teacher), **arguments),
        rtol=1e-6,
        atol=1e-7,
    )


def test_sparse_teachers_that_bias_the_loss_are_refused():
    student, target = logits(4, 5), sparse(logits(4, 5))
    with pytest.raises(ValueError, match="distillation_loss must be 'kl' or 'soft_cross_entropy'"):
        distillation_term(Divergence("reverse_kl"), student, [target])
    with pytest.raises(ValueError, match="combine must be 'losses' for 'kl' and several sparse teachers"):
        distillation_term(Divergence("kl"), student, [target, DenseTarget(student)], combine="probabilities")
    with pytest.raises(ValueError, match=r"targets\[1\] must be at the temperature of 'kl', 2.0, got 1.0"):
        distillation_term(Divergence("kl", temperature=2.0), student, [sparse(student, 2.0), target])
    with pytest.raises(ValueError, match=r"targets\[0\] must have the shape .*\[4, 6\], got \[4, 5\]"):
        distillation_term(Divergence("kl"), logits(4, 6), [target])


@pytest.mark.parametrize("spoiled", ["student", "sparse", "dense"])
def test_masked_positions_of_sparse_teachers_count_exactly_zero_whatever_is_there(spoiled):
    student, first, second = logits(3, 5), *three(3, 5)[:2]
    {"student": student, "sparse": first, "dense": second}[spoiled][1] = math.nan
    student.requires_grad_()
    mask = torch.tensor([True, False, True])
    term = distillation_term(
        Divergence("kl"), student, [sparse(first), DenseTarget(second)], mask=mask, shares=[0.5, 0.5]
    )
    (gradient,) = torch.autograd.grad(term, student)
    kept = [tensor[mask] for tensor in (student.detach(), first, second)]
    expected = distillation_term(
        Divergence("kl"), kept[0], [sparse(kept[1]), DenseTarget(kept[2])], shares=[0.5, 0.5]
    )
    torch.testing.assert_close(term.detach(), expected)
    assert torch.equal(gradient[1], torch.zeros(5, dtype=torch.float64))
    assert (gradient[mask] != 0).all()


def test_a_sparse_teacher_that_is_not_a_number_and_has_share_zero_contributes_exactly_nothing():
    student = logits(3, 5).masked_fill(torch.arange(5) == 1, -math.inf).requires_grad_()
    bad = sparse(torch.full((3, 5), math.nan))
    good = DenseTarget(logits(3, 5, seed=1).masked_fill(torch.arange(5) == 1, -math.inf))
    term = distillation_term(Divergence("kl"), student, [bad, good], shares=[torch.tensor(0.0), 1.0])
    torch.testing.assert_close(term, distillation_term(Divergence("kl"), student, [good]))
    assert torch.autograd.grad(term, student)[0].isfinite().all()

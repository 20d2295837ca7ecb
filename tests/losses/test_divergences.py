import math
import pickle

import pytest
import torch
from torch import Tensor

from codistill import losses
from codistill.losses import (
    Divergence,
    as_divergence,
    bernoulli_kl,
    jensen_shannon,
    kl_divergence,
    logit_mse,
    reverse_kl_divergence,
    soft_cross_entropy,
    symmetric_kl_divergence,
)
from codistill.testing.losses import check_divergence

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
OF_PROBABILITIES = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "symmetric_kl": symmetric_kl_divergence,
    "jensen_shannon": jensen_shannon,
    "soft_cross_entropy": soft_cross_entropy,
}
INF = math.inf


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def textbook(name: str, student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    """The formulas of the papers, one position at a time, without a tensor."""
    if name in ("logit_mse", "centred_logit_mse"):
        if name == "centred_logit_mse":
            student = [value - sum(student) / len(student) for value in student]
            teacher = [value - sum(teacher) / len(teacher) for value in teacher]
        return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)
    q = softmax([value / temperature for value in student])
    p = softmax([value / temperature for value in teacher])
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    value = {
        "kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "symmetric_kl": (kl(p, q) + kl(q, p)) / 2,
        "jensen_shannon": (kl(p, middle) + kl(q, middle)) / 2,
        "soft_cross_entropy": -sum(a * math.log(b) for a, b in zip(p, q, strict=True)),
    }[name]
    return value * temperature**2


@pytest.mark.parametrize("name", OURS)
def test_every_divergence_keeps_the_contract(name):
    check_divergence(Divergence(name), is_zero_at_equality=name != "soft_cross_entropy")


@pytest.mark.parametrize("name", [*OF_PROBABILITIES, "bernoulli_kl"])
def test_every_divergence_keeps_the_contract_at_another_temperature(name):
    check_divergence(Divergence(name, temperature=3.0), is_zero_at_equality=name != "soft_cross_entropy")


@pytest.mark.parametrize("name", [name for name in OURS if name != "bernoulli_kl"])
def test_every_divergence_keeps_the_contract_with_classes_in_the_middle(name):
    check_divergence(Divergence(name, class_dim=1), is_zero_at_equality=name != "soft_cross_entropy")


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_probability_divergences_are_the_textbook_formulas(name, temperature):
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    expected = [
        textbook(name, s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    actual = OF_PROBABILITIES[name](student, teacher, temperature=temperature)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    through_name = Divergence(name, temperature=temperature)(student, teacher)
    assert torch.equal(through_name, actual)


@pytest.mark.parametrize("name", ["logit_mse", "centred_logit_mse"])
def test_logit_mse_is_the_textbook_formula(name):
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    expected = [textbook(name, s, t) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    actual = logit_mse(student, teacher, centred=name == "centred_logit_mse")
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert torch.equal(Divergence(name)(student, teacher), actual)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_bernoulli_kl_is_the_kl_of_two_classes_one_of_which_has_logit_zero(temperature):
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    two_classes = [torch.stack((value, torch.zeros_like(value)), -1) for value in (student, teacher)]
    torch.testing.assert_close(
        bernoulli_kl(student, teacher, temperature=temperature),
        kl_divergence(*two_classes, temperature=temperature),
    )


def test_kl_is_the_divergence_of_the_student_from_the_teacher_and_not_the_other_way_round():
    student = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    teacher_to_student = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    student_to_teacher = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_divergence(student, teacher).item() == pytest.approx(teacher_to_student)
    assert reverse_kl_divergence(student, teacher).item() == pytest.approx(student_to_teacher)
    both = (teacher_to_student + student_to_teacher) / 2
    assert symmetric_kl_divergence(student, teacher).item() == pytest.approx(both)


def test_kl_agrees_with_torch():
    student, teacher = logits(6, 7), logits(6, 7, seed=1)
    expected = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(kl_divergence(student, teacher), expected)


def test_probability_divergences_sum_over_classes_and_logit_mse_means_over_them():
    # Two copies of every class, sharing its probability, leave KL as it is; a sum of squares would double.
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    doubled_student, doubled_teacher = torch.cat((student, student), -1), torch.cat((teacher, teacher), -1)
    torch.testing.assert_close(
        kl_divergence(doubled_student, doubled_teacher), kl_divergence(student, teacher)
    )
    torch.testing.assert_close(logit_mse(doubled_student, doubled_teacher), logit_mse(student, teacher))


@pytest.mark.parametrize("name", [*OF_PROBABILITIES, "bernoulli_kl"])
def test_temperature_squared_is_applied_once(name):
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    at_four = Divergence(name, temperature=4.0)(student, teacher)
    torch.testing.assert_close(at_four, 16 * Divergence(name)(student / 4, teacher / 4))


def test_gradients_keep_their_scale_at_a_high_temperature():
    # For T to infinity the gradient of T^2 KL is the difference of the centred logits over their number.
    student, teacher = logits(3, 4).requires_grad_(), logits(3, 4, seed=1)
    (gradient,) = torch.autograd.grad(kl_divergence(student, teacher, temperature=1e5).sum(), student)
    difference = (student - teacher).detach()
    expected = (difference - difference.mean(-1, keepdim=True)) / 4
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_soft_cross_entropy_has_the_gradient_of_kl_and_the_teachers_entropy_on_top():
    student, teacher = logits(3, 4).requires_grad_(), logits(3, 4, seed=1)
    cross_entropy, relative = soft_cross_entropy(student, teacher), kl_divergence(student, teacher)
    p = teacher.softmax(-1)
    torch.testing.assert_close(cross_entropy - relative, -(p * p.log()).sum(-1))
    gradients = [torch.autograd.grad(value.sum(), student)[0] for value in (cross_entropy, relative)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", OURS)
def test_no_gradient_reaches_the_teacher(name):
    student, teacher = logits(3, 4).requires_grad_(), logits(3, 4, seed=1).requires_grad_()
    Divergence(name)(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_a_function_of_ones_own_gets_a_detached_teacher_in_float32():
    seen = []

    def squared(student: Tensor, teacher: Tensor) -> Tensor:
        seen.append((student.dtype, teacher.dtype, teacher.requires_grad))
        return (student - teacher).square().sum(-1)

    student = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    assert Divergence(squared)(student, student).dtype == torch.float32
    assert seen == [(torch.float32, torch.float32, False)]


@pytest.mark.parametrize("name", OURS)
def test_half_precision_gives_float32_values_and_half_gradients(name):
    student = logits(3, 4).to(torch.bfloat16).requires_grad_()
    values = Divergence(name)(student, logits(3, 4, seed=1).to(torch.bfloat16))
    assert values.dtype == torch.float32
    values.sum().backward()
    assert student.grad.dtype == torch.bfloat16


def test_a_float64_teacher_of_a_half_student_is_not_rounded():
    student, teacher = torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([[1e-9, 0]], dtype=torch.float64)
    assert logit_mse(student, teacher).item() == pytest.approx(5e-19)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_classes_at_minus_infinity_in_both_are_as_if_they_were_not_there(name):
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    ruled_out = torch.tensor([False, True, False, False, True])
    masked = student.masked_fill(ruled_out, -INF).requires_grad_()
    values = OF_PROBABILITIES[name](masked, teacher.masked_fill(ruled_out, -INF))
    kept = student[:, ~ruled_out].requires_grad_()
    expected = OF_PROBABILITIES[name](kept, teacher[:, ~ruled_out])
    torch.testing.assert_close(values, expected)
    (gradient,) = torch.autograd.grad(values.sum(), masked)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), kept)
    torch.testing.assert_close(gradient[:, ~ruled_out], expected_gradient)
    assert torch.equal(gradient[:, ruled_out], torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("centred", [False, True])
def test_logit_mse_means_over_the_classes_that_count(centred):
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    ruled_out = torch.tensor([False, True, False, False, True])
    values = logit_mse(
        student.masked_fill(ruled_out, -INF), teacher.masked_fill(ruled_out, -INF), centred=centred
    )
    torch.testing.assert_close(
        values, logit_mse(student[:, ~ruled_out], teacher[:, ~ruled_out], centred=centred)
    )


@pytest.mark.parametrize("name", [name for name in OURS if name != "bernoulli_kl"])
def test_a_position_without_any_class_counts_zero(name):
    student = torch.full((1, 3), -INF, requires_grad=True)
    values = Divergence(name)(student, torch.full((1, 3), -INF))
    values.sum().backward()
    assert values.tolist() == [0.0]
    assert student.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "soft_cross_entropy"])
def test_a_class_only_the_teacher_rules_out_has_probability_zero(name):
    student = logits(1, 3).requires_grad_()
    almost = torch.tensor([[0.3, -0.2, -700.0]], dtype=torch.float64)
    ruled_out = almost.clone()
    ruled_out[0, 2] = -INF
    values, close = (Divergence(name)(student, teacher) for teacher in (ruled_out, almost))
    torch.testing.assert_close(values, close)
    gradients = [torch.autograd.grad(value.sum(), student)[0] for value in (values, close)]
    torch.testing.assert_close(*gradients)
    assert gradients[0][0, 2] > 0  # the student is still told to give the class up


@pytest.mark.parametrize("name", ["reverse_kl", "symmetric_kl"])
def test_reverse_kl_is_infinite_where_only_the_teacher_rules_a_class_out(name):
    assert Divergence(name)(torch.zeros(1, 2), torch.tensor([[0.0, -INF]])).tolist() == [INF]


def test_kl_is_infinite_and_not_nan_where_only_the_student_rules_a_class_out():
    student = torch.tensor([[0.0, -INF]])
    assert kl_divergence(student, torch.zeros(1, 2)).tolist() == [INF]
    assert reverse_kl_divergence(student, torch.zeros(1, 2)).tolist() == pytest.approx([math.log(2)])


@pytest.mark.parametrize("name", OURS)
def test_extreme_logits_give_no_nan(name):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    values = Divergence(name)(student, torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0]]))
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()


def test_bernoulli_kl_at_infinite_logits_is_that_of_certain_coins():
    student = torch.tensor([0.0, -INF, INF], requires_grad=True)
    values = bernoulli_kl(student, torch.tensor([INF, -INF, INF]))
    values.sum().backward()
    assert values.tolist() == pytest.approx([math.log(2), 0.0, 0.0])
    assert student.grad.tolist() == [-0.5, 0.0, 0.0]


@pytest.mark.parametrize("name", [name for name in OURS if name != "bernoulli_kl"])
@pytest.mark.parametrize("shape", [(8, 1), (8,), ()])
def test_a_class_loss_on_one_logit_is_an_error_that_names_bernoulli_kl(name, shape):
    with pytest.raises(ValueError, match="bernoulli_kl"):
        Divergence(name)(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("function", [*OF_PROBABILITIES.values(), logit_mse])
def test_the_functions_alone_refuse_one_logit_too(function):
    with pytest.raises(ValueError, match=r"at least 2 classes, got shape \[8, 1\].*bernoulli_kl"):
        function(torch.zeros(8, 1), torch.zeros(8, 1))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_bernoulli_kl_takes_any_shape(shape):
    assert bernoulli_kl(torch.zeros(shape), torch.ones(shape)).shape == shape


@pytest.mark.parametrize("name", [name for name in OURS if name != "bernoulli_kl"])
def test_classes_may_be_in_any_dimension(name):
    student, teacher = logits(2, 3, 4, 5), logits(2, 3, 4, 5, seed=1)
    images = Divergence(name, class_dim=1)(student, teacher)
    assert images.shape == (2, 4, 5)
    torch.testing.assert_close(images, Divergence(name)(student.movedim(1, -1), teacher.movedim(1, -1)))
    assert torch.equal(images, Divergence(name, class_dim=-3)(student, teacher))


def test_a_class_dim_the_logits_do_not_have_is_refused():
    with pytest.raises(ValueError, match="class_dim must be a dimension"):
        Divergence("kl", class_dim=2)(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("function", [kl_divergence, logit_mse, bernoulli_kl, Divergence("jensen_shannon")])
def test_different_shapes_are_refused_and_both_are_named(function):
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[1, 3\]"):
        function(torch.zeros(2, 3), torch.zeros(1, 3))


def test_logits_that_are_no_floating_point_tensor_are_refused():
    with pytest.raises(TypeError, match=r"teacher_logits must be a floating-point tensor, got torch\.int64"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="student_logits must be a floating-point tensor, got tuple"):
        kl_divergence((torch.zeros(2, 3),), torch.zeros(2, 3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, INF, math.nan])
def test_a_temperature_that_is_no_number_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        Divergence("kl", temperature=temperature)


@pytest.mark.parametrize("temperature", [True, "2", None])
def test_a_temperature_of_another_type_is_refused(temperature):
    with pytest.raises(TypeError, match="temperature must be a number, got"):
        Divergence("kl", temperature=temperature)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match="distillation_loss must be one of") as raised:
        Divergence("mse")
    assert all(repr(name) in str(raised.value) for name in OURS)


def test_a_divergence_of_neither_name_nor_function_is_refused():
    with pytest.raises(TypeError, match="must be a name, a function or a Divergence, got 3"):
        as_divergence(3)


def test_what_ours_act_on_is_preset_and_not_to_be_contradicted():
    acts_on = {name: Divergence(name).acts_on for name in OURS}
    assert acts_on == {
        **dict.fromkeys(OF_PROBABILITIES, "probabilities"),
        "logit_mse": "logits",
        "centred_logit_mse": "logits",
        "bernoulli_kl": "one_logit",
    }
    assert Divergence("kl", acts_on="probabilities") == Divergence("kl")
    with pytest.raises(ValueError, match="acts_on must be 'probabilities' for 'kl', got 'logits'"):
        Divergence("kl", acts_on="logits")
    with pytest.raises(ValueError, match="acts_on must be one of"):
        Divergence(lambda s, t: s, acts_on="classes")


@pytest.mark.parametrize("loss", ["logit_mse", lambda student, teacher: student])
def test_a_temperature_that_would_mean_nothing_is_refused(loss):
    with pytest.raises(ValueError, match="temperature must be 1"):
        Divergence(loss, temperature=2.0)


def test_a_class_dim_that_would_mean_nothing_is_refused():
    with pytest.raises(ValueError, match="class_dim must be left out"):
        Divergence("bernoulli_kl", class_dim=1)
    with pytest.raises(TypeError, match="class_dim must be an int"):
        Divergence("kl", class_dim=1.0)


def test_a_function_of_ones_own_is_given_a_temperature():
    def own_kl(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = teacher.softmax(-1), student.softmax(-1)
        return (p * (p / q).log()).sum(-1)

    own = Divergence(own_kl, temperature=3.0, acts_on="probabilities")
    check_divergence(own, allows_masked_classes=False)
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    torch.testing.assert_close(own(student, teacher), kl_divergence(student, teacher, temperature=3.0))


def test_a_bare_function_acts_on_logits_also_on_a_single_one():
    own = as_divergence(lambda student, teacher: (student - teacher).abs().sum(-1))
    assert (own.acts_on, own.name) == ("logits", "<lambda>")
    assert own(torch.zeros(2, 1), torch.ones(2, 1)).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="acts_on='one_logit'"):
        own(torch.zeros(2), torch.ones(2))


def test_a_function_of_ones_own_that_averages_is_refused():
    own = Divergence(torch.nn.functional.mse_loss)
    with pytest.raises(
        ValueError, match=r"one value a position, \[2, 5\] for logits of shape \[2, 5, 3\], got \[\]"
    ):
        own(torch.zeros(2, 5, 3), torch.zeros(2, 5, 3))
    elementwise = Divergence(lambda s, t: (s - t).square())
    with pytest.raises(ValueError, match=r"one value a position, \[2\]"):
        elementwise(torch.zeros(2, 3), torch.zeros(2, 3))
    one_logit = Divergence(lambda s, t: (s - t).square(), acts_on="one_logit")
    assert one_logit(torch.zeros(2, 3), torch.ones(2, 3)).shape == (2, 3)


def test_a_function_of_ones_own_that_returns_no_tensor_is_refused():
    with pytest.raises(TypeError, match="must return a tensor, got float"):
        Divergence(lambda s, t: 0.0)(torch.zeros(2, 3), torch.zeros(2, 3))


def test_divergences_are_values():
    assert Divergence("kl", temperature=2) == Divergence("kl", temperature=2.0)
    assert Divergence("kl") != Divergence("kl", temperature=2.0)
    assert Divergence("kl") != Divergence("reverse_kl")
    assert len({Divergence("kl"), Divergence("kl"), Divergence("kl", class_dim=1)}) == 2
    assert pickle.loads(pickle.dumps(Divergence("kl", class_dim=1))) == Divergence("kl", class_dim=1)
    with pytest.raises(AttributeError):
        Divergence("kl").temperature = 2.0


def test_a_function_of_ours_is_known_as_if_by_name():
    assert as_divergence(jensen_shannon) == Divergence("jensen_shannon")


def test_a_divergence_prints_its_settings_and_passes_through():
    divergence = Divergence("logit_mse", class_dim=1)
    assert repr(divergence) == "Divergence('logit_mse', temperature=1.0, class_dim=1, acts_on='logits')"
    assert as_divergence(divergence) is divergence


def test_the_public_names_are_sorted_and_there():
    assert losses.__all__ == sorted(losses.__all__)
    assert all(hasattr(losses, name) for name in losses.__all__)


def broken_shape(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(-1)[..., None]


def broken_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.detach() - teacher).square().sum(-1) + 0 * student.sum()


def not_a_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).sum(-1)


def wrong_at_infinity(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(-1)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (broken_shape, ValueError, "one value a position"),
        (broken_gradient, AssertionError, "gradient must reach the student"),
        (not_a_distance, AssertionError, "at least 0"),
        (wrong_at_infinity, AssertionError, "-inf"),
    ],
)
def test_the_contract_suite_finds_a_broken_divergence(function, error, message):
    with pytest.raises(error, match=message):
        check_divergence(Divergence(function))

import pytest
import torch

from codistill.exchange.usable import without_nan
from codistill.losses import DenseTarget, Divergence, distillation_term, sample_top_k


def logits(*, bad=None, dtype=torch.float32):
    tensor = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    if bad is not None:
        tensor[2, 3] = bad
    return tensor


def sparse(tensor):
    return sample_top_k(tensor, k=3, sampled=1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [DenseTarget, sparse])
@pytest.mark.parametrize("bad", [None, -torch.inf])
def test_numbers_stay_as_they_are(make, bad, dtype):
    target = make(logits(bad=bad, dtype=dtype))
    same, share = without_nan(target)
    assert same is target
    assert share == 1.0


def test_many_large_half_precision_logits_do_not_overflow():
    target = DenseTarget(torch.full((100, 10), 6e4, dtype=torch.float16))
    assert without_nan(target) == (target, 1.0)


@pytest.mark.parametrize("make", [DenseTarget, sparse])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_counts_nothing_and_is_harmless(make, bad):
    target, share = without_nan(make(logits(bad=bad)))
    assert share == 0.0
    student = logits().requires_grad_()
    term = distillation_term(Divergence("kl"), student, [target], shares=[share])
    assert term.item() == 0.0
    term.backward()
    assert student.grad.count_nonzero() == 0


@pytest.mark.parametrize("make", [DenseTarget, sparse])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_bad_teacher_of_two_leaves_the_other(make, bad):
    good = make(logits())
    target, share = without_nan(make(logits(bad=bad)))
    student = logits(dtype=torch.float64).flip(0)
    both = distillation_term(Divergence("kl"), student, [good, target], shares=[1.0, share])
    torch.testing.assert_close(both, distillation_term(Divergence("kl"), student, [good]))


@pytest.mark.parametrize("make", [DenseTarget, sparse])
def test_on_an_accelerator_nothing_is_read(make):
    # The meta device has no values: whatever waits for one fails.
    target, share = without_nan(make(logits()))
    on_meta = type(target)(
        *(
            value.to("meta") if isinstance(value, torch.Tensor) else value
            for value in (getattr(target, name) for name in target.__dataclass_fields__)
        )
    )
    target, share = without_nan(on_meta)
    assert share.device.type == "meta"
    assert share.shape == ()
    assert target.logits_shape(-1) == (4, 6)

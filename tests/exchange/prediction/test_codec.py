import pytest
import torch

from codistill.exchange.prediction.codec import BFloat16, Exact, PredictionCodec, TopK, as_codec
from codistill.losses import DenseTarget, Divergence, SparseTarget, distillation_term, sample_top_k

SHAPES = [((4, 7), -1), ((2, 3, 7), -1), ((2, 7, 3), 1), ((7, 2, 3), 0)]


def logits_of(shape, *, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("shape", "class_dim"), [*SHAPES, ((5,), -1), ((), -1), ((0, 7), -1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_exact_logits_come_back_to_the_bit(shape, class_dim, dtype):
    logits = logits_of(shape, dtype=dtype).requires_grad_()
    tensors = Exact().encode(logits, class_dim=class_dim)
    target = Exact().decode(tensors, shape=logits.shape, class_dim=class_dim)
    assert torch.equal(target.logits, logits)
    assert target.logits.dtype == dtype
    assert not target.logits.requires_grad


@pytest.mark.parametrize("codec", [Exact(), BFloat16(), TopK(3, sampled=1)], ids=str)
def test_what_is_sent_is_contiguous_and_told_by_dtype_and_shape(codec):
    for seed in range(2):
        logits = logits_of((7, 2, 3), seed=seed).permute(1, 2, 0)
        tensors = codec.encode(logits, generator=seeded(seed))
        assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors.values())
        looks = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        assert looks == {
            name: (tensor.dtype, tensor.shape)
            for name, tensor in codec.encode(logits_of((2, 3, 7), seed=5)).items()
        }


def test_bfloat16_rounds_and_keeps_ruled_out_classes():
    logits = torch.tensor([[1.0, 1.001, -torch.inf]])
    (tensor,) = BFloat16().encode(logits).values()
    target = BFloat16().decode({"logits": tensor}, shape=logits.shape)
    assert torch.equal(target.logits, torch.tensor([[1.0, 1.0, -torch.inf]], dtype=torch.bfloat16))


@pytest.mark.parametrize(("shape", "class_dim"), SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(
    "codec", [TopK(4, sampled=2), TopK(2, sampled=2), TopK(7, sampled=3), TopK(9)], ids=str
)
def test_a_few_classes_come_back_as_they_were_sampled(codec, shape, class_dim, temperature):
    logits = logits_of(shape)
    tensors = codec.encode(logits, temperature=temperature, class_dim=class_dim, generator=seeded())
    target = codec.decode(tensors, shape=logits.shape, temperature=temperature, class_dim=class_dim)
    expected = sample_top_k(
        logits,
        k=codec.k,
        sampled=codec.sampled,
        temperature=temperature,
        class_dim=class_dim,
        generator=seeded(),
    )
    assert torch.equal(target.classes, expected.classes)
    torch.testing.assert_close(target.weights, expected.weights)
    assert torch.equal(target.entropy, expected.entropy)
    assert (target.temperature, target.class_count) == (temperature, 7)
    assert target.logits_shape(class_dim) == logits.shape


def test_a_few_classes_teach_on_average_what_all_do():
    student = logits_of((3, 7), seed=1).requires_grad_()
    logits, divergence = logits_of((3, 7)), Divergence("kl", temperature=2.0)
    dense = distillation_term(divergence, student, [DenseTarget(logits)])
    (expected,) = torch.autograd.grad(dense, student)
    codec, generator = TopK(3, sampled=2), seeded()
    values, gradients = [], []
    for _ in range(400):
        tensors = codec.encode(logits, temperature=2.0, generator=generator)
        target = codec.decode(tensors, shape=student.shape, temperature=2.0)
        term = distillation_term(divergence, student, [target])
        values.append(term.detach())
        gradients.append(torch.autograd.grad(term, student)[0])
    for draws, truth in ((torch.stack(values), dense.detach()), (torch.stack(gradients), expected)):
        error = draws.std(0) / len(draws) ** 0.5
        assert (draws.mean(0) - truth).abs().le(4 * error + 1e-6).all()


@pytest.mark.parametrize("codec", [Exact(), BFloat16(), TopK(3, sampled=1), TopK(20, sampled=1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nbytes_is_what_is_sent(codec, dtype):
    logits = logits_of((5, 2, 7), dtype=dtype)
    sent = sum(tensor.nbytes for tensor in codec.encode(logits).values())
    assert codec.nbytes(10, 7, itemsize=dtype.itemsize) == sent


def test_logits_that_are_no_numbers_are_sent_as_such():
    logits = logits_of((2, 7))
    logits[1, 3] = torch.nan
    for codec in (Exact(), BFloat16(), TopK(3, sampled=1)):
        tensors = codec.encode(logits, generator=seeded())
        assert any(tensor.isnan().any() for tensor in tensors.values()), codec
        codec.decode(tensors, shape=logits.shape)


@pytest.mark.parametrize("codec", [Exact(), BFloat16(), TopK(3, sampled=1)], ids=str)
def test_logits_must_be_of_floating_point(codec):
    with pytest.raises(TypeError, match=r"logits must be a floating-point tensor, got torch\.int64"):
        codec.encode(torch.ones(2, 3, dtype=torch.int64))


def test_the_largest_classes_alone_are_refused_unless_they_are_all():
    with pytest.raises(ValueError, match=r"sampled must be >= 1 for k=3 of 7 classes, got 0"):
        TopK(3).encode(logits_of((2, 7)))
    assert isinstance(
        TopK(7).decode(TopK(7).encode(logits_of((2, 7))), shape=torch.Size((2, 7))), SparseTarget
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": torch.full((2, 3), 7, dtype=torch.int32)}, "classes .*between 0 and 6, got 7 to 7"),
        ({"classes": torch.full((2, 3), -1, dtype=torch.int32)}, "classes .*between 0 and 6, got -1 to -1"),
        ({"classes": torch.zeros(2, 3)}, r"classes .*torch\.int32, got torch\.float32"),
        ({"classes": torch.zeros(2, 4, dtype=torch.int32)}, r"classes .*shape \[2, 3\], got \[2, 4\]"),
        ({"probabilities": torch.zeros(2, 3)}, r"probabilities .*shape \[2, 2\], got \[2, 3\]"),
        ({"rest": torch.zeros(2, 1)}, r"rest .*shape \[2\], got \[2, 1\]"),
        ({"entropy": torch.zeros(2, dtype=torch.float64)}, r"entropy .*float32, got torch\.float64"),
        ({"more": torch.zeros(2)}, r"must hold \['classes', .*got .*'more'"),
    ],
)
def test_a_few_classes_that_do_not_fit_are_refused(change, message):
    codec = TopK(3, sampled=1)
    tensors = codec.encode(logits_of((2, 7)), generator=seeded()) | change
    with pytest.raises(ValueError, match=message):
        codec.decode(tensors, shape=torch.Size((2, 7)))


@pytest.mark.parametrize("codec", [Exact(), BFloat16()], ids=str)
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"must hold \['logits'\], got \[\]"),
        ({"scores": torch.zeros(2, 7)}, r"must hold \['logits'\], got \['scores'\]"),
        ({"logits": torch.zeros(2, 7, dtype=torch.int32)}, r"logits .*torch\.int32"),
        ({"logits": torch.zeros(2, 6, dtype=torch.bfloat16)}, r"logits .*shape \[2, 7\], got \[2, 6\]"),
    ],
)
def test_logits_that_do_not_fit_are_refused(codec, tensors, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(tensors, shape=torch.Size((2, 7)))


@pytest.mark.parametrize(("shape", "class_dim"), [((), -1), ((4,), 1), ((2, 3), -3)])
def test_a_shape_without_a_dimension_of_classes_is_refused(shape, class_dim):
    codec = TopK(3, sampled=1)
    tensors = codec.encode(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="dimension"):
        codec.decode(tensors, shape=torch.Size(shape), class_dim=class_dim)


def test_codecs_suit_the_losses_that_they_do_not_bias():
    for codec in (Exact(), BFloat16()):
        codec.check_suits(Divergence("logit_mse"), "logits", teachers=None)
    TopK(3, sampled=1).check_suits(Divergence("kl"), "losses", teachers=2)
    with pytest.raises(ValueError, match="distillation_loss must be 'kl' or 'soft_cross_entropy'"):
        TopK(3, sampled=1).check_suits(Divergence("logit_mse"), "losses", teachers=1)
    with pytest.raises(ValueError, match=r"combine must be .*got 'logits'"):
        TopK(3, sampled=1).check_suits(Divergence("kl"), "logits", teachers=1)


def test_names_stand_for_codecs():
    assert as_codec("exact") == Exact()
    assert as_codec("bfloat16") == BFloat16()
    assert as_codec(TopK(3, sampled=1)) == TopK(3, sampled=1)
    names = [codec.name for codec in (Exact(), BFloat16(), TopK(3, sampled=1), TopK(3, sampled=2), TopK(4))]
    assert len(set(names)) == 5
    assert all(isinstance(codec, PredictionCodec) for codec in (Exact(), BFloat16(), TopK(1)))


@pytest.mark.parametrize(("codec", "kind"), [("int8", ValueError), (8, TypeError), (TopK, TypeError)])
def test_other_codecs_are_refused(codec, kind):
    with pytest.raises(kind, match="codec must be 'exact', 'bfloat16' or TopK"):
        as_codec(codec)


@pytest.mark.parametrize(
    ("k", "sampled", "message"),
    [
        (0, 0, "k must be >= 1, got 0"),
        (2, 3, "sampled must be between 0 and 2, got 3"),
        (2, -1, "sampled must be between 0 and 2, got -1"),
        (2.0, 0, r"k must be an int, got 2\.0"),
        (2, True, "sampled must be an int, got True"),
    ],
)
def test_numbers_of_classes_are_checked(k, sampled, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TopK(k, sampled=sampled)

import pytest
import torch

from codistill.snapshots.precision import (
    CODECS,
    check_codec,
    check_readable,
    convert,
    count_blocks,
    dequantise,
    quantise,
    stored_dtype,
)

LARGEST = torch.finfo(torch.float32).max


def quantised(values):
    out = torch.empty(values.numel(), dtype=torch.int8)
    scales = torch.empty(count_blocks(values.numel()))
    quantise(values, out=out, scales=scales)
    return out, scales


def there_and_back(values):
    out = torch.empty_like(values)
    dequantise(*quantised(values), out=out)
    return out


def test_codecs_are_checked_by_name():
    assert [check_codec(codec) for codec in CODECS] == ["exact", "bfloat16", "int8"]
    with pytest.raises(ValueError, match=r"SnapshotOptions\(codec\) must be one of 'exact', .* got 'int4'"):
        check_codec("int4", "SnapshotOptions(codec)")
    check_readable("int8")
    with pytest.raises(ValueError, match=r"got 'int4'\. Upgrade codistill here"):
        check_readable("int4")


def test_small_tensors_are_not_quantised():
    assert [stored_dtype("int8", "F16", elements) for elements in (0, 1023, 1024)] == ["F16", "F16", "I8"]
    assert stored_dtype("int8", "I64", 5000) == "I64"


def test_a_block_is_told_by_its_largest_value():
    values = torch.zeros(600)
    values[0], values[1], values[2], values[300] = -12.7, 6.34, 0.06, 254.0
    out, scales = quantised(values)
    assert torch.allclose(scales, torch.tensor([0.1, 2.0, 0.0]))
    assert (out[0], out[1], out[2], out[300]) == (-127, 63, 1, 127)
    assert torch.allclose(there_and_back(values)[:3], torch.tensor([-12.7, 6.3, 0.1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("elements", [0, 1, 255, 256, 257, 16384, 16385, 40000])
def test_values_of_every_length_and_dtype_come_back_nearly(elements, dtype):
    values = torch.randn(elements, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = there_and_back(values)
    # Half a scale of a largest value below 5, and what bfloat16 itself rounds.
    assert ((result - values).abs().float() <= 5 / 127 / 2 + 5 * 2**-8).all()
    assert result.dtype == dtype


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_block_that_is_not_finite_has_no_scale(bad):
    values = torch.ones(768)
    values[300] = bad
    out, scales = quantised(values)
    assert scales.isnan().tolist() == [False, True, False]
    # So that equal states give equal bytes.
    assert out[256:512].count_nonzero() == 0
    assert there_and_back(values).isnan().nonzero().flatten().tolist() == list(range(256, 512))


def test_a_float64_beyond_float32_counts_as_infinite():
    assert there_and_back(torch.tensor([1e39, 1.0], dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, LARGEST * (1 - 2**-23), 1e-38, 190 * 2.0**-149, 0.0])
def test_the_largest_and_the_smallest_values_stay_finite(value):
    values = torch.full((256,), value)
    result = there_and_back(values)
    assert result.isfinite().all()
    assert torch.allclose(result, values, rtol=1e-6, atol=127 * 2.0**-149)


@pytest.mark.parametrize("value", [0.0, 1e-44])
def test_a_block_whose_scale_is_0_holds_zeros(value):
    out, scales = quantised(torch.full((256,), value))
    assert out.count_nonzero() == 0
    assert scales.tolist() == [0]


def test_half_is_rounded_to_even():
    values = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantised(values)[0].tolist() == [127, 0, 2, 2, 0, -2]


def test_conversion_covers_every_slice():
    values = torch.arange(40000).to(torch.int16)
    out = torch.empty(40000)
    convert(values, out=out)
    assert torch.equal(out, values.float())

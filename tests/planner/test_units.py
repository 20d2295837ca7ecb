import pytest

from codistill.planner.units import (
    format_bytes,
    format_number,
    format_rate,
    format_seconds,
    parse_count,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("10Gbit", 1.25e9),
        ("100Mbit/s", 12.5e6),
        ("100 Mbitps", 12.5e6),
        ("1GB/s", 1e9),
        ("1GiB/s", 2**30),
        ("2.5kB", 2500),
        ("1e3bit", 125),
        (" 8bit ", 1),
    ],
)
def test_a_rate_is_read_in_bits_or_bytes(text, bytes_per_s):
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text", ["", "10", "10G", "Gbit", "-1Gbit", "0Gbit", "10gbit", "1e999bit", "10Gbit/h"]
)
def test_what_is_no_rate_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"^--link must be a number > 0 and a unit, got .* Write 10Gbit"):
        parse_rate(text, "--link")


@pytest.mark.parametrize(("text", "count"), [("7", 7), ("1.3e9", 1_300_000_000), ("25.6e6", 25_600_000)])
def test_a_count_may_be_written_as_a_float(text, count):
    assert parse_count(text, "params") == count


@pytest.mark.parametrize("text", ["", "x", "0", "-3", "1.5", "nan", "inf", "1e30"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ValueError, match=r"^params must be a whole number >= 1"):
        parse_count(text, "params")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (0.25, "0.250 B"),
        (12.34, "12.3 B"),
        (999.6, "1.00 kB"),
        (999_499, "999 kB"),
        (3.3e9, "3.30 GB"),
    ],
)
def test_bytes_have_three_digits(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (99.96, "100"),
        (9.996, "10.0"),
        (0.004114, "0.00411"),
        (1234567, "1,234,567"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_digits_or_all_before_the_point(value, text):
    assert format_number(value) == text


def test_rates_and_seconds_choose_their_unit():
    assert [format_rate(rate) for rate in (12.5e6, 1.25e9, 1)] == ["100 Mbit/s", "10.0 Gbit/s", "8.00 bit/s"]
    assert [format_seconds(s) for s in (0, 2e-6, 0.25, 599, 600)] == [
        "0 s",
        "2.00 us",
        "250 ms",
        "599 s",
        "10 min",
    ]

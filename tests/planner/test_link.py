import pytest

from codistill.planner import Link, Measurement, calibrate

LINK = Link.parse("100Mbit")
# Bytes on the wire and seconds that one write of 1, 10 and 20 MB to an S3 server took, and one read, over a
# virtual link that tc had limited to 100 Mbit/s.
WRITES = [(1_036_802, 0.0924), (10_345_023, 0.9102), (20_738_053, 1.8157)]
READS = [(1_016_444, 0.0874), (10_295_646, 0.8552), (20_521_685, 1.7067)]


def measured(size_bytes: float, seconds: float, rounds: int = 1) -> Measurement:
    return Measurement(size_bytes=size_bytes, seconds=seconds, rounds=rounds)


@pytest.mark.parametrize("sizes", [WRITES, READS], ids=["writes", "reads"])
@pytest.mark.parametrize("known", [0, 1, 2])
def test_one_measured_size_predicts_the_others_within_a_quarter(sizes, known):
    link = calibrate(LINK, measured(*sizes[known]))
    for size_bytes, seconds in sizes:
        assert link.seconds(size_bytes) == pytest.approx(seconds, rel=0.25)


@pytest.mark.parametrize("sizes", [WRITES, READS], ids=["writes", "reads"])
def test_two_measured_sizes_predict_a_third_within_a_twentieth(sizes):
    link = calibrate(LINK, measured(*sizes[0]), measured(*sizes[1]))
    assert link.seconds(sizes[2][0]) == pytest.approx(sizes[2][1], rel=0.05)


def test_rate_and_latency_are_found_again_from_any_number_of_rounds():
    true = Link(bytes_per_s=3e6, latency_s=0.02)
    points = [measured(s, true.seconds(s, rounds=r), r) for s, r in [(1e5, 1), (4e6, 6), (1e6, 3)]]
    found = calibrate(LINK, *points)
    assert found.bytes_per_s == pytest.approx(3e6)
    assert found.latency_s == pytest.approx(0.02)


def test_one_size_leaves_the_latency_and_finds_the_rate():
    found = calibrate(Link(bytes_per_s=12.5e6, latency_s=0.1), measured(12.5e6, 1.5, rounds=5))
    assert (found.bytes_per_s, found.latency_s) == (pytest.approx(12.5e6), 0.1)


def test_one_size_that_was_faster_than_the_latency_allows_lowers_that():
    found = calibrate(Link(bytes_per_s=12.5e6, latency_s=0.1), measured(1e6, 0.15, rounds=5))
    assert (found.bytes_per_s, found.latency_s) == (12.5e6, pytest.approx(0.03))


def test_sizes_that_contradict_a_latency_give_the_rate_alone():
    found = calibrate(LINK, measured(1e6, 0.1), measured(10e6, 2.0))
    assert found.latency_s == 0.0
    assert 5e6 < found.bytes_per_s < 10e6


def test_sizes_that_take_less_the_larger_they_are_give_the_latency_alone():
    found = calibrate(LINK, measured(1e6, 0.4), measured(10e6, 0.3))
    assert found.bytes_per_s == LINK.bytes_per_s
    assert 0.3 < found.latency_s < 0.4


def test_calibration_keeps_what_the_interface_counts():
    link = Link(bytes_per_s=1e6, frame_bytes=65536)
    assert calibrate(link, measured(1e6, 2.0)).frame_bytes == 65536


def test_without_a_measurement_there_is_nothing_to_calibrate_by():
    with pytest.raises(ValueError, match=r"^measured must hold at least one Measurement"):
        calibrate(LINK)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bytes_per_s": 0.0}, "^bytes_per_s must be > 0 and finite, got 0.0"),
        ({"bytes_per_s": float("nan")}, "^bytes_per_s must be > 0 and finite, got nan"),
        ({"latency_s": -0.1}, "^latency_s must be >= 0 and finite, got -0.1"),
        ({"frame_bytes": 66}, "^frame_bytes must be between 128 and 65550, got 66"),
    ],
)
def test_a_link_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Link(**{"bytes_per_s": 1.0, **fields})


@pytest.mark.parametrize(
    "fields", [{"size_bytes": 0}, {"seconds": 0.0}, {"seconds": float("inf")}, {"rounds": 0}]
)
def test_a_measurement_that_cannot_be_is_refused(fields):
    with pytest.raises(ValueError, match=rf"^{next(iter(fields))} must be"):
        Measurement(**{"size_bytes": 1, "seconds": 1, **fields})

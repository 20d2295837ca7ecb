import pytest

from codistill.lab.recipes.epochs import Epochs
from codistill.lab.recipes.scaling import goyal2017, legw

RUN = Epochs(batch_size=8192, epochs=90, warmup=5, drops=(30, 60, 80))


def test_the_learning_rate_is_in_proportion_to_the_batch_and_begins_at_the_reference_s() -> None:
    course = goyal2017(RUN, samples=1_281_167)
    assert course["learning_rate"] == pytest.approx(3.2)
    assert course["warmup_from"] * course["learning_rate"] == pytest.approx(0.1)
    assert course["updates"] == 14_075
    assert course["warmup_steps"] == 781
    assert course["learning_rate_drops"] == pytest.approx((1 / 3, 2 / 3, 8 / 9))


def test_a_batch_below_the_reference_begins_at_its_own_learning_rate() -> None:
    course = goyal2017(Epochs(batch_size=128, epochs=45), samples=1000)
    assert (course["learning_rate"], course["warmup_from"]) == (0.05, 1.0)


def test_fewer_updates_keep_the_shares_of_warm_up_and_drops() -> None:
    whole, short = goyal2017(RUN, samples=1_281_167), goyal2017(RUN, samples=1_281_167, updates=900)
    assert (short["updates"], short["warmup_steps"]) == (900, 50)
    assert short["learning_rate_drops"] == whole["learning_rate_drops"]
    assert short["learning_rate"] == whole["learning_rate"]


@pytest.mark.parametrize(
    ("factor", "rate", "warmup"), [(1, 2.82842712474619, 0.078125), (4, 5.65685424949238, 0.3125)]
)
def test_sc20_scales_by_the_square_root_and_warms_up_in_proportion(
    factor: int, rate: float, warmup: float
) -> None:
    course = legw(Epochs(batch_size=256 * factor, epochs=70), samples=1_280_000)
    assert course["learning_rate"] == pytest.approx(rate)
    assert course["warmup_steps"] == pytest.approx(warmup * 1_280_000 / (256 * factor), abs=1)
    assert course["learning_rate_course"] == "linear"

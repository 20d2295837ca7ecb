import pytest

from codistill.lab.report import scatter
from codistill.lab.report.scatter import Point


@pytest.mark.parametrize("sent", [[], [0.0], [0.0, 0.0], [5.0], [0.0, 20e3, 104e3], [1.0, 1e3, 1e9]])
def test_arms_are_drawn_whatever_they_send(sent):
    points = [
        Point(label=f"arm-{index}", bytes_a_step=count, value=90.0 + index, reach=0.5 if index else None)
        for index, count in enumerate(sent)
    ]
    svg = scatter.draw(points, quantity="test accuracy, %")
    assert svg.startswith("<svg")
    assert (">none<" in svg) == (0.0 in sent)
    assert all(f"arm-{index}" in svg for index in range(len(sent)))


def test_a_narrow_range_of_bytes_has_marks_within_a_power_of_ten():
    points = [Point(label=str(count), bytes_a_step=count, value=1.0, reach=None) for count in (20e3, 104e3)]
    svg = scatter.draw(points, quantity="test accuracy, %")
    assert ">20 kB<" in svg
    assert ">50 kB<" in svg
    assert ">100 kB<" in svg

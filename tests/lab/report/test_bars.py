from codistill.lab.report import bars


def test_bars_are_drawn_with_and_without_an_interval():
    svg = bars.draw(
        [
            bars.Bar(label="one & two", value=3.0, low=-0.5, high=6.5),
            bars.Bar(label="three", value=1.0, low=None, high=None),
        ],
        quantity="churn, %",
    )
    assert svg.startswith("<svg")
    assert "one &amp; two" in svg
    assert "three" in svg

from dataclasses import replace

from codistill.lab.recipe import Recipe
from codistill.lab.report.sweeps import Line, draw, find_sweeps

TAUGHT = Recipe(name="test", task="digits", method="codistillation")
PLAIN = replace(TAUGHT, method="all_reduce", peers=1)


def test_arms_that_differ_in_one_setting_make_a_line():
    arms = [replace(TAUGHT, arm=f"every-{steps}", interval_steps=steps) for steps in (100, 1, 10)]
    arms[0] = replace(arms[0], learning_rate=0.03, weight_decay=0.0, summary="tuned for itself")
    assert find_sweeps([PLAIN, *arms]) == {
        "interval_steps": [
            Line(label="codistillation", values=(1, 10, 100), arms=("every-1", "every-10", "every-100"))
        ]
    }


def test_arms_that_differ_in_two_settings_make_none():
    other = replace(TAUGHT, arm="other", interval_steps=5, distillation_weight=2.0)
    assert find_sweeps([TAUGHT, other]) == {}
    assert find_sweeps([TAUGHT, replace(TAUGHT, arm="other", updates=3, interval_steps=5)]) == {}


def test_a_method_without_an_interval_is_not_swept_over_it():
    assert find_sweeps([PLAIN, replace(PLAIN, arm="other", interval_steps=5)]) == {}


def test_a_grid_of_two_settings_makes_a_line_for_each_value_of_the_other():
    arms = [
        replace(TAUGHT, arm=f"{share}-{weight}", data_fraction=share, distillation_weight=weight)
        for share in (0.5, 1.0)
        for weight in (1.0, 3.0)
    ]
    sweeps = find_sweeps(arms)
    assert [line.label for line in sweeps["data_fraction"]] == [
        "codistillation, distillation_weight 1.0",
        "codistillation, distillation_weight 3.0",
    ]
    assert [line.arms for line in sweeps["distillation_weight"]] == [
        ("0.5-1.0", "0.5-3.0"),
        ("1.0-1.0", "1.0-3.0"),
    ]


def test_a_sweep_is_drawn_with_what_all_reduce_reaches():
    svg = draw(
        [Line(label="codistillation", values=(1, 10, 100), arms=("a", "b", "c"))],
        field="interval_steps",
        quantity="test accuracy, %",
        values={"a": (91.0, 0.5), "b": (92.0, None), "c": (90.0, 0.1)},
        level=("all_reduce", 93.0),
    )
    assert svg.startswith("<svg")
    for word in (">1<", ">10<", ">100<", "all_reduce", "updates between two exchanges"):
        assert word in svg


def test_a_setting_that_may_be_0_is_drawn_too():
    lines = [Line(label="codistillation", values=(0.0, 10.0), arms=("a", "b"))]
    svg = draw(lines, field="distillation_weight", quantity="NLL", values={"a": (1.0, 0.1), "b": (2.0, 0.1)})
    assert "all_reduce" not in svg

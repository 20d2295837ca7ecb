import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from codistill.lab.compare import compare
from codistill.lab.comparison import Comparison
from codistill.lab.folder import RunFolder
from codistill.lab.report.figures import make_figures


@pytest.fixture(scope="module")
def run(reported_experiment) -> RunFolder:
    return RunFolder(reported_experiment)


@pytest.fixture(scope="module")
def figures(run):
    return make_figures(run, compare(run))


def test_a_run_has_the_figures_that_the_papers_have(figures):
    titles = {heading: [figure.title for figure in group] for heading, group in figures.items()}
    assert [title.split(" of ")[0] for title in titles["Learning curves"]] == [
        "Validation NLL",
        "Training loss",
        "Distance",
    ]
    assert len(titles["Models and their teachers"]) == 2
    assert [title.split()[0] for title in titles["What is reached, and what it takes"]] == ["Test", "Churn:"]
    assert titles["Settings"] == [
        "Test NLL against updates between two exchanges",
        "Test NLL against share of the training data",
    ]


def test_every_figure_is_well_formed_and_has_ids_of_its_own(figures):
    seen: set[str] = set()
    for group in figures.values():
        for figure in group:
            clips = {
                element.attrib["id"]
                for element in ET.fromstring(figure.svg).iter()
                if element.tag.endswith("clipPath")
            }
            assert clips
            assert not clips & seen
            seen |= clips


def test_only_arms_with_teachers_are_drawn_beside_them(figures):
    for figure in figures["Models and their teachers"]:
        assert "codistillation-10" in figure.svg
        assert "two_phase<" in figure.svg
        assert "ensemble" not in figure.svg


def test_arms_that_send_nothing_are_marked(figures):
    scatter = figures["What is reached, and what it takes"][0]
    assert ">none<" in scatter.svg
    assert ">1 kB<" in scatter.svg


def test_a_run_that_never_read_the_test_set_has_learning_curves_only(run):
    comparison = compare(run)
    rows = tuple(replace(row, test_nll=None, churn=None) for row in comparison.rows)
    there = make_figures(run, Comparison(rows=rows, verdicts=(), metric="nll"))
    assert list(there) == ["Learning curves", "Models and their teachers"]

import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import pytest
from rich.console import Console

from codistill.errors import ExtraMissingError, RunExistsError
from codistill.lab.compare import compare
from codistill.lab.comparison import Comparison, read_comparison
from codistill.lab.folder import RunFolder
from codistill.lab.report import comparison_markdown, curves, print_comparison, write_report
from codistill.lab.report.columns import details, footnotes, headlines
from codistill.lab.results import Evaluation

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects what a browser would load, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attributes)
        self.loads += [values[name] for name in ("src", "href", "xlink:href", "action") if name in values]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def comparison(results_folder) -> Comparison:
    return compare(RunFolder(results_folder))


def test_report_is_one_well_formed_page_that_loads_nothing(results_folder):
    text = write_report(results_folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.names
    assert "link" not in page.names
    assert page.names.count("svg") == 5
    assert all(target.startswith("#") for target in page.loads)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


@pytest.mark.usefixtures("without_figures")
def test_report_shows_every_arm_verdict_and_meaning(results_folder, comparison):
    page = Page(write_report(results_folder).read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    for row in comparison.rows:
        assert row.arm in words
    for verdict in comparison.verdicts:
        assert verdict.says in words
        assert verdict.interval() in words
    for note in footnotes(comparison):
        assert note in words
    for column in headlines(comparison) + details(comparison):
        assert (
            column.meaning.replace("+-", "\N{PLUS-MINUS SIGN}").replace(" x ", " \N{MULTIPLICATION SIGN} ")
            in words
        )
    assert "ahead" in words
    assert "not codistilled" in words
    assert "codistill demo --out 'runs/a <b> & c'" in words
    assert "torch" in words
    assert "Chosen at the edge of the grid: alone_2." in words
    assert "codistillation_2_free has the settings of codistillation_2; it was not tuned itself." in words


@pytest.mark.usefixtures("without_figures")
def test_nothing_is_claimed_of_an_arm_that_was_not_codistilled_wherever_it_is_shown(
    results_folder, comparison, capsys
):
    sentence = "codistillation_4: no verdict against all_reduce on test accuracy: codistillation_4 was not"
    page = Page(write_report(results_folder).read_text(encoding="utf-8"))
    verdicts = " ".join(" ".join(page.words).split()).partition("Verdicts")[2]
    cells = verdicts[verdicts.index("codistillation_4 against all_reduce") :].split(" test accuracy ")
    assert cells[0].endswith(" not codistilled")
    assert cells[1].startswith("- - 5 ")
    print_comparison(comparison)
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert sentence in comparison_markdown(comparison)


def test_notes_say_what_befell_free_running_peers(comparison):
    notes = "\n".join(footnotes(comparison))
    assert "Running free (codistillation_2_free): " in notes
    assert "codistillation_2_free: 20.0% of a peer's publishes were skipped, as the store was busy." in notes
    assert "quarantine" not in notes
    assert "diverged" not in notes
    (row,) = (row for row in comparison.rows if row.arm == "codistillation_2_free")
    worse = replace(row, quarantined_share=0.125, weight_factor=0.5, skipped_share=0.0)
    notes = "\n".join(footnotes(Comparison(rows=(worse,), verdicts=())))
    assert "codistillation_2_free: 12.5% of the updates had a teacher in quarantine; a distillation" in notes
    assert "diverged, and its weight was multiplied by 0.5." in notes
    assert "skipped" not in notes


@pytest.mark.usefixtures("without_figures")
def test_report_escapes_what_comes_from_the_command_line(results_folder):
    text = write_report(results_folder).read_text(encoding="utf-8")
    assert "a <b>" not in text
    assert "a &lt;b&gt; &amp; c" in text


@pytest.mark.usefixtures("without_figures")
def test_report_shows_the_commands_that_resumed_the_run(results_folder):
    path = results_folder / "run.json"
    document = json.loads(path.read_text())
    later = {"command": ["codistill", "demo", "--resume"], "versions": {"torch": "99.1"}}
    path.write_text(json.dumps(document | {"resumed_with": [later]}))
    words = " ".join(Page(write_report(results_folder).read_text(encoding="utf-8")).words)
    assert "codistill demo --out" in words
    assert "codistill demo --resume" in words
    assert "99.1" in words


@pytest.mark.usefixtures("without_figures")
def test_report_writes_the_comparison_beside_it(results_folder, comparison):
    assert write_report(results_folder) == results_folder / "report.html"
    assert read_comparison(results_folder / "comparison.json") == comparison


def test_report_of_an_experiment_shows_what_was_expected_chosen_and_equal(reported_experiment):
    text = (reported_experiment / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.names.count("svg") == 9
    words = " ".join(" ".join(page.words).split())
    for expected in (
        "A5: codistillation-10 against all_reduce",
        "ahead by at least 0.005 nats holds",
        "parity within 0.001 holds",
        "All arms were given the same updates.",
        "What the search chose",
        "Further numbers",
        "calibration error %",
    ):
        assert expected in words


def test_same_results_give_the_same_page(results_folder):
    first = write_report(results_folder).read_bytes()
    assert write_report(results_folder).read_bytes() == first


@pytest.mark.usefixtures("without_figures")
def test_report_says_what_has_not_finished(results_folder):
    for peer in "ab":
        (results_folder / "alone_2" / "seed-4" / peer / "result.json").unlink()
    (results_folder / "half_alone" / "seed-0" / "a" / "result.json").unlink()
    text = write_report(results_folder).read_text(encoding="utf-8")
    assert "Not all finished: half_alone: 4 of 5 seeds; alone_2: 4 of 5 seeds." in text


def test_report_refuses_a_folder_that_is_no_results_folder(tmp_path):
    with pytest.raises(RunExistsError, match=r"run\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_report_without_its_extra_names_the_install(results_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'codistill\[lab\]'"):
        write_report(results_folder)
    assert not (results_folder / "comparison.json").exists()


def test_curve_is_mean_and_spread_over_seeds_at_common_steps():
    seeds = [[_row(50, 1.0), _row(100, 2.0)], [_row(50, 3.0), _row(100, 4.0), _row(150, 9.0)]]
    course = curves.curve("arm", seeds, lambda row: row.train_loss)
    assert (course.steps, course.means) == ((50, 100), (2.0, 3.0))
    assert course.sds == pytest.approx((2**0.5, 2**0.5))


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.0, 1.0]])
def test_short_and_flat_courses_can_be_drawn(losses):
    rows = [_row(step, loss) for step, loss in enumerate(losses, start=1)]
    svg = curves.draw([curves.curve("arm", [rows], lambda row: row.train_loss)], quantity="loss")
    assert svg.startswith("<svg")


def test_labels_in_a_drawing_are_escaped():
    course = curves.curve("<script>", [[_row(1, 1.0), _row(2, 2.0)]], lambda row: row.train_loss)
    svg = curves.draw([course], quantity="loss")
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


def test_drawing_leaves_the_settings_of_matplotlib_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    # Not dict(), which asks for the backend, which imports pyplot.
    before = matplotlib.rcParams.copy()
    curves.draw([], quantity="loss")
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in sys.modules


def test_terminal_table_fits_100_columns(comparison, capsys):
    print_comparison(comparison)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    for row in comparison.rows:
        assert row.arm in printed
    assert " ".join(comparison.verdicts[4].sentence().split()) in " ".join(printed.split())
    assert "1.33" in printed


def test_terminal_takes_a_console(comparison):
    out = io.StringIO()
    print_comparison(comparison, console=Console(file=out, width=140))
    assert "codistillation_4 (not codistilled)" in out.getvalue()


def test_markdown_has_a_line_an_arm_and_a_line_a_verdict(comparison):
    lines = comparison_markdown(comparison).splitlines()
    assert lines[0].startswith("| arm | accuracy % |")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(comparison.rows)
    assert {line.count("|") for line in table} == {len(headlines(comparison)) + 2}
    assert "| `codistillation_4` (not codistilled) |" in "\n".join(lines)
    assert [line for line in lines if line.startswith("- ")] == [
        f"- {verdict.sentence()}" for verdict in comparison.verdicts
    ]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_600, "100 kB"),
        (104_488, "104 kB"),
        (2.5e6, "2.5 MB"),
    ],
)
def test_bytes_are_shown_in_units_of_a_thousand(comparison, count, shown):
    (column,) = (column for column in headlines(comparison) if column.label == "bytes/step")
    assert column.cell(replace(comparison.rows[0], exchanged_bytes=count)) == shown


def _row(step: int, loss: float) -> Evaluation:
    return Evaluation(
        step=step,
        samples=step,
        train_loss=loss,
        distillation_loss=None,
        validation_accuracy=0.5,
        validation_nll=1.0,
        distance=1.0,
        learning_rate=0.1,
        weight_decay=0.0,
        teacher_share=None,
    )

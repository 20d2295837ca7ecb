"""README and docs say what is so."""

import json
import re
from pathlib import Path

import pytest

from codistill.lab.comparison import read_comparison
from codistill.lab.report.markdown import comparison_markdown

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_readme_shows_the_demo_s_table_and_verdicts_as_they_came_out() -> None:
    shown = (ROOT / "README.md").read_text()
    for line in comparison_markdown(read_comparison(ROOT / "docs" / "results" / "demo.json")).splitlines():
        assert line in shown


@pytest.mark.parametrize("name", ["weak_peer.json", "weak_peer_clean.json"])
def test_the_log_shows_the_weak_peers_as_they_came_out(name: str) -> None:
    # The table that comes next after the command that made the file.
    after = (ROOT / "LOG.md").read_text().split(f"# docs/results/{name}\n", maxsplit=1)[1]
    table = after[after.index("| arm |") :].split("\n\n", maxsplit=1)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    shown = {cells[0].strip("| `"): cells for cells in rows}
    arms = json.loads((ROOT / "docs" / "results" / name).read_text())["arms"]
    assert set(shown) == {arm["arm"] for arm in arms}
    for arm in arms:
        assert shown[arm["arm"]][2] == f"{100 * arm['test_accuracy']:.1f}"
        if "against_alone" in arm:
            mean, low, high = (100 * arm["against_alone"][end] for end in ("mean", "low", "high"))
            assert shown[arm["arm"]][3] == f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_pages_name_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= targets


def test_every_python_file_that_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    names = {path.name for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*.py")}
    for named in re.findall(r"`(?:[a-z_]+/)*([a-z_]+\.py)`", text):
        assert named in names, named

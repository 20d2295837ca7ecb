"""docs/choosing.md shows what `make choosing` measured, and the program runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codistill.lab.recipes.digits import RECIPE

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "choosing.py"


@pytest.fixture(scope="module")
def choosing() -> Any:
    spec = importlib.util.spec_from_file_location("choosing", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module there.
    sys.modules["choosing"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "results" / "choosing.json").read_text())


def test_the_page_shows_the_tables_as_they_came_out(choosing: Any, document: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "choosing.md").read_text()
    assert choosing.write_page(page, document) == page


def test_a_page_without_markers_is_refused(choosing: Any, document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"page must have the markers <!-- choosing loss: begin -->"):
        choosing.write_page("# Choosing\n", document)


def test_each_arm_differs_from_the_recipe_in_one_setting(choosing: Any) -> None:
    arms, _ = choosing.plan()
    for arm in arms:
        changed = {
            field
            for field in arm.__dataclass_fields__
            if field not in ("arm", "method") and getattr(arm, field) != getattr(RECIPE, field)
        }
        assert len(changed) <= 1, arm.arm


def test_every_row_has_five_seeds_or_more_on_a_named_machine(choosing: Any, document: dict[str, Any]) -> None:
    assert len(document["seeds"]) >= 5
    assert document["machine"]["cores"] >= 1
    arms, tables = choosing.plan()
    assert set(document["arms"]) == {arm.arm for arm in arms}
    for rows in tables.values():
        for row in rows:
            for arm in (row.arm, row.against):
                assert len(document["arms"][arm]["accuracy"]) == len(document["seeds"])


def test_a_difference_is_paired_over_seeds(choosing: Any) -> None:
    ours, theirs = [0.5, 0.7, 0.9], [0.4, 0.6, 0.8]
    assert choosing._difference(ours, theirs, scale=100, digits=1) == "+10.0 (+10.0 to +10.0)"
    assert choosing._difference(ours, ours, scale=100, digits=1) == "none"


@pytest.mark.spawn
def test_it_trains_with_few_updates(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "runs"), "--seeds", "0", "--updates", "5", "--arms", "alone"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/alone/seed-0/*/result.json"))) == 2

"""What is not tried here says so, and is at least of the form that its system reads."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TEMPLATES = ("kubernetes.yaml", "ray_peers.py", "slurm.sbatch")
MARK = "A template, not tried here"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_that_it_was_not_tried_and_so_does_the_page_that_names_it(name: str) -> None:
    assert MARK in (EXAMPLES / name).read_text()
    page = (EXAMPLES.parent / "docs" / "running.md").read_text()
    (row,) = re.findall(rf"^\|.*\({re.escape(f'../examples/{name}')}\).*$", page, re.MULTILINE)
    assert row.endswith("| template, not tried here |")


def test_nothing_else_is_a_template() -> None:
    marked = [path.name for path in EXAMPLES.iterdir() if path.is_file() and MARK in path.read_text()]
    assert sorted(marked) == sorted(TEMPLATES)


def test_the_templates_can_be_parsed() -> None:
    ast.parse((EXAMPLES / "ray_peers.py").read_text())
    bash = shutil.which("bash")
    if bash is not None:
        subprocess.run([bash, "-n", EXAMPLES / "slurm.sbatch"], check=True)
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    jobs = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    assert [job["metadata"]["name"] for job in jobs] == ["peer-a", "peer-b"]

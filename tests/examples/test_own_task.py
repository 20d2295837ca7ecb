import re
from pathlib import Path

import pytest
import torch

from codistill.cli import main
from codistill.lab import recipes, tasks

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task.py"


def test_its_recipe_names_a_task_in_its_own_file() -> None:
    recipe = recipes.recipe(f"{EXAMPLE}:recipe")
    task, again = (tasks.load(recipe.task, data_root=Path("nowhere")) for _ in range(2))
    assert torch.equal(task.train.inputs, again.train.inputs)
    assert not torch.equal(task.train.inputs[:400], task.validation.inputs[:400])
    assert task.class_frequencies().tolist() == [0.5, 0.5]
    assert task.model(width=8)(task.train.inputs).shape == (400, 2)


@pytest.mark.spawn
def test_it_is_trained_by_the_command_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (words,) = re.findall(
        r"^    codistill (train examples/own_task.py:recipe)$", EXAMPLE.read_text(), re.MULTILINE
    )
    words = words.replace("examples/own_task.py", str(EXAMPLE))
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--device", "cpu", "--json"]) == 0, capsys.readouterr().err
    assert (tmp_path / "runs" / "own_task" / "report.html").is_file()
    # Half of the points would be right by chance.
    assert '"test_accuracy": 0.9' in capsys.readouterr().out

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codistill.cli import compare as compare_verb
from codistill.cli.entry import main
from codistill.lab.contest import Contest
from codistill.lab.folder import RunFolder, create

WORDS = ["digits", "--updates", "20", "--evaluate-every", "10", "--device", "cpu"]


@pytest.mark.spawn
def test_a_comparison_that_was_killed_goes_on_to_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        *("compare", *WORDS, "--methods", "all_reduce", "codistillation", "--seeds", "2", "--no-search"),
        *("--out", str(out), "--resume"),
    ]
    first = out / "all_reduce" / "seed-0" / "a" / "result.json"
    program = "import sys; from codistill.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.DEVNULL) as process:
        while not first.exists():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        process.kill()
    assert process.returncode < 0
    finished = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("result.json")}
    assert main([*words, "--json"]) == 0
    assert [row["seeds"] for row in json.loads(capsys.readouterr().out)["rows"]] == [2, 2]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished} == finished
    assert (out / "report.html").exists()
    assert [(one.arm, one.seed, one.peer) for one in RunFolder(out).results()] == [
        *(("all_reduce", seed, "a") for seed in (0, 1)),
        *(("codistillation", seed, peer) for seed in (0, 1) for peer in "ab"),
    ]


@pytest.fixture
def held(
    monkeypatch: pytest.MonkeyPatch, pretend_to_train: Callable[[RunFolder], None]
) -> list[tuple[Contest, dict[str, Any]]]:
    """Let nothing be trained, and note what would have been."""
    calls = []

    def hold(contest: Contest, *, out: Path, on_progress: Callable[..., None], **rest: Any) -> RunFolder:
        calls.append((contest, rest))
        arms = compare_verb.arms_of(contest.recipe, contest.methods)
        run = create(out, arms=arms, seeds=contest.seeds, command=rest["command"])
        pretend_to_train(run)
        on_progress("search of all_reduce", 20, 180)
        return run

    monkeypatch.setattr(compare_verb, "hold", hold)
    return calls


def test_the_recipe_s_own_method_is_held_against_synchronous_sgd(
    in_tmp_path: Path, held: list[tuple[Contest, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *WORDS, "--budget", "bytes", "--cores", "1"]) == 0
    ((contest, rest),) = held
    assert (contest.methods, contest.seeds) == (("all_reduce", "codistillation"), (0, 1, 2))
    assert (contest.budget, contest.recipe.updates, contest.searches) == ("bytes", 20, True)
    assert (rest["options"].cores, rest["options"].device, rest["if_exists"]) == (1, "cpu", "refuse")
    out, err = capsys.readouterr()
    assert out.endswith("Report: runs/digits-compared/report.html\n")
    # 9 points and 3 seeds of 20 updates, for each of two methods.
    assert "20/480" in err
    assert "20/180" in err


def test_what_is_ahead_is_known_beforehand(
    in_tmp_path: Path, held: list[tuple[Contest, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods", "two_phase", "--sweep", "interval_steps", "2", "5", "--search-seeds", "2"]
    assert main(["compare", *WORDS, "--teacher-updates", "10", *words]) == 0
    assert compare_verb._expected(held[0][0]) == {
        "search of two_phase": 9 * 2 * 30,
        "two_phase-interval_steps-2-teachers": 3 * 10,
        "two_phase-interval_steps-2": 3 * 20,
        "two_phase-interval_steps-5-teachers": 3 * 10,
        "two_phase-interval_steps-5": 3 * 20,
    }


def test_the_recipe_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 2
    assert "The recipe must come first" in capsys.readouterr().err
    assert main(["compare", "--help"]) == 0
    assert "usage: codistill compare RECIPE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "seeds must be >= 1, got 0"),
        (["--search-seeds", "0"], "search_seeds must be >= 1, got 0"),
        (["--methods", "magic"], "method must be one of"),
        (["--sweep", "interval_steps"], "sweep must be a field and one or more values"),
        (["--sweep", "interval_steps", "0"], "interval_steps must be >= 1, got 0"),
        (["--trackers", "paper"], "trackers must be of"),
        (["--overwrite", "--resume"], "--overwrite and --resume must not be given together"),
        (
            ["--search-learning-rates", "0"],
            "learning_rates to search must be one or more different numbers > 0",
        ),
        (["--no-search", "--search-seeds", "2"], "no_search must not be given with what is to be searched"),
        (["--seeds", "101"], "seeds must be <= 100, got 101"),
        (["--seed", "3"], "seed must be left out of a comparison, got 3. Pass --seeds"),
        (["--arm", "mine"], "arm must be left out of a comparison"),
        (["--method", "alone", "--methods", "mutual"], "method must be left out of a comparison"),
        (["--methods", "mutual", "mutual"], "methods must be one or more different ones"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["compare", *WORDS, "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

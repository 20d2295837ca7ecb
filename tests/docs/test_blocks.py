"""Every block of code of the README and the pages runs.

Blocks of Python are run here, but for those that another test runs as they stand on the page. Command lines
are all parsed; what a line starts is run here, or by the test that is named, at a small size where it trains,
or is listed with the reason why it is not. A line that is in none of the lists fails.
"""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from codistill.cli import compare, main, parsing, train

_HERE = Path(__file__).parent


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, _HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


blocks = _load("blocks")
ROOT = blocks.ROOT
COMMANDS = list(dict.fromkeys(blocks.commands()))

# Pages whose blocks of Python another test takes from the page: what they need is made there.
PYTHON_ELSEWHERE = {
    "README.md": "tests/examples/test_three_lines.py::test_readme_s_first_listing_is_the_marked_region",
    "docs/cost.md": "tests/cli/test_plan.py::test_the_program_of_the_page_runs",
    "docs/extending.md": "tests/test_plugins.py::test_the_page_shows_the_sample_package_as_it_is",
    "docs/snapshot-format.md": "tests/snapshots/test_format_page.py",
}
# Of a page that is run here, blocks that need a server or accelerators.
NOT_RUN_PYTHON = {
    "docs/prediction-server.md": "each needs a server; the client is run by tests/server/test_page.py",
}

# Read and print only: run as they stand.
READS = ("recipes", "reproduce", "plan")

# Run as it stands.
SHORT = "python -c 'import secrets; print(secrets.token_hex(32))' > token; chmod 600 token"
# Comparisons take long even when they are small: what is asked for is checked up to the first process.
# tests/cli/test_compare.py holds one for real, tests/lab trains each method.
CHECKED_UP_TO_THE_START = (
    "codistill compare digits --methods all_reduce codistillation --seeds 5 --no-search --out runs/report",
    "codistill compare digits --methods all_reduce local_sgd diloco codistillation --seeds 3",
    "codistill compare digits --methods all_reduce codistillation diloco --seeds 5",
    "codistill compare digits --methods codistillation --sweep interval_steps 5 20 80 --no-search",
    "codistill compare digits --methods codistillation --sweep interval_steps 10 100 --no-search",
)
# Line, or its beginning -> the file of the test that runs it.
RUN_ELSEWHERE = {
    "python examples/three_lines.py": "tests/examples/test_three_lines.py",
    "python examples/accelerate_peer.py": "tests/integrations/test_accelerate.py",
    "python examples/lightning_peer.py": "tests/integrations/test_lightning_example.py",
    "python examples/transformers_peer.py": "tests/integrations/test_transformers_ranks.py",
    "codistill train examples/own_task.py:recipe": "tests/examples/test_own_task.py",
    "codistill train digits --checkpoint-every 100 --ranks-per-peer 2 --on slurm "
    "--job time=24:00:00 partition=gpu gpus-per-node=2 --dry-run": "tests/cli/test_train.py",
    "codistill train digits --updates 100 --peer-widths 128 16 --topology directed --edges a:b": (
        "tests/cli/test_train.py"
    ),
    "codistill train digits --peers 2": "tests/cli/test_train.py",
    "codistill watch runs/three_lines --once": "tests/examples/test_three_lines.py",
    "codistill watch runs/three_lines --json --interval-s 0.5 | head -n 2": (
        "tests/examples/test_three_lines.py"
    ),
    "wait": "tests/examples/test_three_lines.py",
    "codistill export runs/three_lines --peer a --out model.safetensors": (
        "tests/examples/test_three_lines.py"
    ),
}
NOT_RUN = {
    "codistill peers s3://bucket/run-7": "needs a bucket",
    "codistill serve /mnt/run-7 --model my_models:build": "needs a run and a model of the reader's",
    "codistill serve s3://bucket/run-7 --model my_models:build --host 0.0.0.0 --token-file token "
    "--certificate server.pem --key server.key": "needs a bucket, a certificate and a model of the reader's",
    "codistill train cifar10 --data-root DATA --peers 2": "needs CIFAR-10",
    "codistill train cifar10 --data-root DATA --method all_reduce --out runs/cifar10 "
    "--resume": "needs CIFAR-10",
    "codistill train sodhani2020-s3-lab --data-root DATA": "needs CIFAR-10",
    "tensorboard --logdir runs/digits/tensorboard": "a server that does not end",
}


def of_program(*programs: str) -> list[Any]:
    """Return the command lines of some programs, each once, as parameters."""
    lines = {command.line: command for command in COMMANDS if command.words[0] in programs}
    return [pytest.param(command, id=line) for line, command in lines.items()]


def beginning(line: str, table: Sequence[str]) -> str | None:
    """Return the entry that a line is, or begins with."""
    return next((entry for entry in table if line == entry or line.startswith(f"{entry} --peer ")), None)


def test_every_command_line_is_run_or_listed_with_the_reason() -> None:
    unknown = []
    for command in COMMANDS:
        program, *rest = command.words
        is_known = (
            program in ("make", "pip")
            or (program == "codistill" and rest[0] in READS)
            or command.line in {SHORT, *CHECKED_UP_TO_THE_START, *NOT_RUN}
            or beginning(command.line, tuple(RUN_ELSEWHERE)) is not None
        )
        if not is_known:
            unknown.append(f"{command.page}: {command.line}")
    assert unknown == []


def test_what_is_listed_is_on_a_page() -> None:
    lines = [command.line for command in COMMANDS]
    for entry in (SHORT, *CHECKED_UP_TO_THE_START, *NOT_RUN, *RUN_ELSEWHERE):
        assert any(beginning(line, (entry,)) for line in lines), entry


@pytest.mark.parametrize("entry", RUN_ELSEWHERE)
def test_what_is_run_elsewhere_is_named_there(entry: str) -> None:
    text = (ROOT / RUN_ELSEWHERE[entry]).read_text()
    pages = {command.page for command in COMMANDS if beginning(command.line, (entry,))}
    # The test takes the line from its page, or it names the script.
    script = next((word for word in entry.split() if ".py" in word), "").partition(":")[0]
    names = [Path(page).name for page in pages] + ([Path(script).name] if script else [])
    assert any(name in text for name in names), f"{RUN_ELSEWHERE[entry]} has none of {names}"


@pytest.mark.parametrize("command", of_program("python"))
def test_scripts_that_are_named_have_the_options_that_are_given(command: Any) -> None:
    if command.words[1] == "-c":
        return
    source = (ROOT / command.words[1]).read_text()
    for word in command.words[2:]:
        if word.startswith("--"):
            assert f'"{word}"' in source, f"{command.words[1]} has no {word}"


@pytest.mark.parametrize("command", of_program("pip"))
def test_extras_that_are_to_be_installed_exist(command: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert command.words[1] == "install"
    for word in command.words[2:]:
        name, _, extras = word.partition("[")
        assert name in ("codistill", "accelerate", "scikit-learn")
        for extra in filter(None, extras.removesuffix("]").split(",")):
            assert extra in project["optional-dependencies"]


@pytest.mark.parametrize("command", of_program("make"))
def test_targets_that_are_to_be_made_exist(command: Any) -> None:
    assert f"\n{command.words[1]}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("command", of_program("codistill"))
def test_every_command_line_of_ours_is_parsed(
    command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parsed: list[object] = []
    call = parsing.call

    def parse(function: Callable[..., Any], arguments: Sequence[str], **named: Any) -> Any:
        """Parse for real, then only remember: `train` and `compare` are stopped below."""
        if isinstance(function, type):
            return call(function, arguments, **named)
        recorder = functools.wraps(function)(lambda *values, **options: parsed.append((values, options)))
        return call(recorder, arguments, **named)

    monkeypatch.setattr(parsing, "call", parse)
    monkeypatch.setattr(train, "train", lambda options, **_: parsed.append(options))
    monkeypatch.setattr(compare, "hold", lambda contest, **_: _Stop(parsed, contest))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    words = command.words[1 : command.words.index("|") if "|" in command.words else None]
    with contextlib.suppress(_Stopped):
        assert main(words) == 0
    assert len(parsed) == 1 or words[0] == "plan"


class _Stopped(Exception):
    """Nothing is trained."""


def _Stop(parsed: list[object], contest: object) -> None:
    parsed.append(contest)
    raise _Stopped


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one.values[0], id=one.id)
        for one in of_program("codistill")
        if one.values[0].words[1] in READS
    ],
)
def test_commands_that_only_read_run_as_they_stand(
    command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.words[1:]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.spawn
def test_a_key_that_is_made_as_the_pages_say_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", SHORT], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    assert len(bytes.fromhex((tmp_path / "token").read_text())) == 32
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@pytest.fixture(scope="module")
def python_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the blocks of Python of all pages in one process; return what went wrong on each."""
    done = subprocess.run(
        [sys.executable, str(_HERE / "run_blocks.py"), str(tmp_path_factory.mktemp("blocks")), *RUN_HERE],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WITH_PYTHON = [blocks.name_of(page) for page in blocks.PAGES if blocks.python_blocks(page)]
RUN_HERE = [name for name in WITH_PYTHON if name not in {*PYTHON_ELSEWHERE, *NOT_RUN_PYTHON}]


@pytest.mark.spawn
@pytest.mark.parametrize("page", RUN_HERE)
def test_the_python_of_a_page_runs(python_results: dict[str, str], page: str) -> None:
    assert python_results[page] == ""


@pytest.mark.parametrize("page", PYTHON_ELSEWHERE)
def test_python_that_is_run_elsewhere_is_taken_from_its_page(page: str) -> None:
    path, _, function = PYTHON_ELSEWHERE[page].partition("::")
    text = (ROOT / path).read_text()
    assert Path(page).name in text
    assert f"def {function}(" in text if function else True

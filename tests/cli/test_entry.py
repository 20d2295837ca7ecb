import importlib.util
import re
import subprocess
import sys

import pytest

from codistill.cli import entry, main
from codistill.errors import SnapshotError
from codistill.version import __version__

RECIPE_FLAGS = (
    "arm batch-size burn-in-steps checkpoint-every codec combine data-fraction decays-norms-and-biases "
    "distillation-loss distillation-weight distillation-weight-added distillation-weight-factor "
    "distillation-weight-maximum edges evaluate-every gradient-clip interval-steps label-smoothing "
    "learning-rate learning-rate-course learning-rate-drops learning-rate-factor lockstep method model "
    "momentum name no-decays-norms-and-biases no-lockstep optimizer outer-learning-rate outer-momentum "
    "parts peer-learning-rates peer-models peer-widths peers precision ranks ranks-per-peer regime seed "
    "smoothing-prior summary task teacher-updates temperature topology updates warmup-from warmup-steps "
    "weight-decay weight-decay-factor weight-decays"
)
TRAIN_FLAGS = f"{RECIPE_FLAGS} data-root device dry-run job json on out overwrite peer resume store trackers"
COMPARE_FLAGS = (
    f"{RECIPE_FLAGS} budget cores data-root device json methods no-search out overwrite resume "
    "search-learning-rates search-seeds search-weight-decays seeds sweep trackers"
)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["demo"], "out seeds overwrite resume json"),
        (["train", "digits"], TRAIN_FLAGS),
        (["compare", "digits"], COMPARE_FLAGS),
        (["reproduce"], "anew cores data-root device json out"),
        (["recipes"], "json"),
        (["recipes", "show"], "json"),
        (["report"], "json"),
        (["peers"], "best json"),
        (["watch"], "interval-s once json web host port"),
        (["doctor"], "prune signing-key-file json"),
        (["export"], "peer out overwrite json"),
        (
            ["serve"],
            "model outputs-to-logits host port token-file certificate key device dtype peers max-peers "
            "max-batch max-integers max-body-bytes integers-below no-merging signing-key-file poll-s json",
        ),
        (
            ["plan"],
            "params peers ranks-per-peer batch-per-peer positions outputs weight-dtype logits-dtype "
            "optimizer sharded interval-steps topology top-k sampled outer-steps step-s link latency-s "
            "data-root json",
        ),
    ],
)
def test_flags_are_frozen(capsys, words, flags):
    assert main([*words, "--help"]) == 0
    shown = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", capsys.readouterr().out))
    assert shown == {f"--{flag}" for flag in [*flags.split(), "help"]}


def test_version_goes_to_stdout(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"codistill {__version__}\n", "")


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in entry.VERBS)


def test_no_verb_is_wrong_usage_and_shows_the_help_on_stderr(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: codistill VERB")


def test_an_unknown_verb_lists_those_there_are(capsys):
    assert main(["distil"]) == 2
    assert capsys.readouterr().err == (
        "codistill: verb must be one of demo, train, compare, reproduce, recipes, report, peers, "
        "watch, doctor, export, serve, plan, got 'distil'.\n"
    )


def test_every_verb_is_a_module_that_can_be_run():
    for verb in entry.VERBS:
        assert callable(importlib.import_module(f"codistill.cli.{verb}").run)


@pytest.mark.parametrize("missing", ["tyro", "rich"])
def test_without_its_extra_one_line_names_the_install(monkeypatch, capsys, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == missing else find_spec(name, *more)
    )
    assert main(["recipes"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'codistill[cli]'" in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SnapshotError("torn"), 1, "codistill: torn\n"),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "codistill: [Errno 13] Permission denied: '/x'\n",
        ),
        (ValueError("wrong field"), 1, "codistill: wrong field\n"),
        (
            KeyboardInterrupt(),
            130,
            "codistill: Interrupted. What has finished stays; --resume goes on from it.\n",
        ),
    ],
)
def test_failures_are_one_line_on_stderr(monkeypatch, capsys, error, code, line):
    from codistill.cli import report

    def fail(arguments):
        raise error

    monkeypatch.setattr(report, "run", fail)
    assert main(["report", "x"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_keeps_its_traceback(monkeypatch):
    from codistill.cli import report

    def fail(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(report, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["report", "x"])


@pytest.mark.parametrize("words", [["--help"], ["recipes"], ["recipes", "show", "digits"]])
def test_looking_around_does_not_load_pytorch(words):
    # The root package is replaced by an empty one: what it imports is its own affair.
    program = (
        "import importlib.util, sys, types\n"
        "root = types.ModuleType('codistill')\n"
        "spec = importlib.util.find_spec('codistill')\n"
        "root.__path__ = list(spec.submodule_search_locations)\n"
        "sys.modules['codistill'] = root\n"
        "from codistill.cli import main\n"
        f"assert main({words!r}) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_codistill_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "codistill", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"codistill {__version__}\n")

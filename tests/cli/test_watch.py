import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import get_args
from urllib.request import urlopen

import pytest

from codistill.cli import main, watch
from codistill.exchange.checkpoint.lives import open_run
from codistill.stores import DirectoryStore
from codistill.watch import history, table
from codistill.watch.view import PeerState

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "watch.md").read_text()


@pytest.fixture
def interrupt(monkeypatch):
    """Let the watch be asked to end when it prints its second view."""

    def interrupt_by(number):
        views = []
        print_view = watch._print

        def show(view, **options):
            print_view(view, **options)
            views.append(view)
            if len(views) == 2:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(watch, "_print", show)

    return interrupt_by


def test_one_view_as_a_table(store_path, capsys):
    assert main(["watch", str(store_path), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(store_path)
    assert lines[1].startswith("1 finished; watched for ")
    (a,) = (line.split() for line in lines if line.startswith("a "))
    assert a[:5] == ["a", "finished", "2", "8", "0.5000"]


def test_one_view_as_json(store_path, capsys):
    assert main(["watch", str(store_path), "--once", "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert (view["store"], view["away_s"], view["problems"]) == (str(store_path), None, [])
    (a,) = view["peers"]
    assert (a["peer"], a["state"], a["step"], a["samples"]) == ("a", "finished", 2, 8)
    assert (a["task_loss"], a["incarnation"], a["steps_per_s"]) == (0.5, 0, None)


def test_a_store_that_is_lost_between_two_reads_fails_a_single_view(store_path, capsys, monkeypatch):
    def open_and_lose(name):
        (store_path / "run.json").unlink()
        return DirectoryStore(store_path)

    monkeypatch.setattr(watch, "open_existing", open_and_lose)
    assert main(["watch", str(store_path), "--once"]) == 1
    assert "The store is away" in capsys.readouterr().out


def test_hostile_documents_print_no_control_character(store_path, capsys):
    for name in ("b", "c"):
        (store_path / name).mkdir()
        (store_path / name / "status.json").write_bytes(
            b'{"format": 1, "\x1b[2J": "\x9b", "run_id": "\\u001b[2J"}'
        )
        (store_path / name / "latest.json").write_bytes(b"\x1b]0;x\x07" * 100)
    assert main(["watch", str(store_path), "--once"]) == 0
    out = capsys.readouterr().out
    assert "2 unreadable" in out
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_views_follow_one_another_until_it_is_interrupted(
    store_path, capsys, interrupt, number
):
    before = signal.getsignal(number)
    interrupt(number)
    assert main(["watch", str(store_path), "--interval-s", "0.2"]) == 0
    out = capsys.readouterr().out
    first, second = out.split(f"\n\n{store_path}\n")
    assert "finished" in first
    assert "finished" in second
    assert "\x1b" not in out
    assert signal.getsignal(number) == before


def test_as_json_each_view_is_a_line(store_path, capsys, interrupt):
    interrupt(signal.SIGINT)
    assert main(["watch", str(store_path), "--json", "--interval-s", "0.2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["watched_s"] < second["watched_s"]


def test_in_a_terminal_the_view_is_drawn_over_and_over_and_the_last_one_stays(
    store_path, capsys, monkeypatch
):
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "60", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    drawn = []
    draw = watch.draw

    def draw_twice(view, **room):
        drawn.append(room)
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(view, **room)

    monkeypatch.setattr(watch, "draw", draw_twice)
    assert main(["watch", str(store_path), "--interval-s", "0.2"]) == 0
    screens, after = capsys.readouterr().out.split("\x1b[?1049l")
    assert screens.startswith("\x1b[?1049h")
    assert screens.count(str(store_path)[-10:]) == 2
    assert "finished" in after
    assert [(room["width"], room.get("height")) for room in drawn] == [(60, 20), (60, 20), (60, None)]


def test_a_width_that_is_asked_for_is_kept(store_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["watch", str(store_path), "--once"]) == 0
    assert all(len(line) <= 40 for line in capsys.readouterr().out.splitlines())


def test_a_page_is_served_until_it_is_interrupted(store_path, capsys, monkeypatch):
    answers = []
    write = sys.stderr.write

    def browse(text):
        write(text)
        with urlopen(text.split()[-1] + "view.json", timeout=30) as answer:
            answers.append(json.loads(answer.read()))
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys.stderr, "write", browse)
    assert main(["watch", str(store_path), "--web"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"Watch it at http://127\.0\.0\.1:\d+/\n", err)
    assert answers[0]["peers"][0]["state"] == "finished"


def test_a_busy_port_says_what_to_do(store_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["watch", str(store_path), "--web", "--port", port]) == 1
    assert "Pass another --port" in capsys.readouterr().err


def test_a_page_that_breaks_ends_with_an_error(store_path, monkeypatch):
    monkeypatch.setattr(watch.PageServer, "is_broken", property(lambda server: True))
    assert main(["watch", str(store_path), "--web", "--interval-s", "0.2"]) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--interval-s", "0.1"], "--interval-s must be between 0.2 and 3600, got 0.1"),
        (["--interval-s", "nan"], "--interval-s must be"),
        (["--interval-s", "inf"], "--interval-s must be"),
        (["--web", "--once"], "--web must be given without --once and --json"),
        (["--web", "--json"], "--web must be given without --once and --json"),
        (["--port", "80"], "--host and --port must be given with --web"),
        (["--host", "0.0.0.0"], "--host and --port must be given with --web"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(store_path, capsys, words, complaint):
    assert main(["watch", str(store_path), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err


def test_a_store_that_is_not_there_is_not_made(tmp_path, capsys):
    assert main(["watch", str(tmp_path / "typo"), "--once"]) == 1
    assert "must be a folder that is there" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_a_run_in_which_nobody_publishes_yet_is_shown(tmp_path, capsys):
    open_run(DirectoryStore(tmp_path / "run"))
    assert main(["watch", str(tmp_path / "run"), "--once"]) == 0
    assert "Nobody publishes here yet." in capsys.readouterr().out


def test_the_page_explains_every_column_and_state():
    explained = set(re.findall(r"^\| `?([a-zA-Z/ ]+?\??)(?: 42s)?`? \|", PAGE, re.MULTILINE))
    assert {column.heading for column in table._COLUMNS if column.heading} - {"peer"} <= explained
    assert set(get_args(PeerState)) | {"running?"} <= explained


def test_the_page_s_numbers_are_the_code_s():
    assert f"has stood still for so long, {history.SILENT_AFTER_S:g} s or more" in PAGE
    assert f"does not answer for {history._PATIENCE_S:g} s counts as away" in PAGE
    assert f"at most {history._POINTS} means" in PAGE
    assert f"two looks, {watch._SHORTEST_INTERVAL_S} to {watch._LONGEST_INTERVAL_S:g}." in PAGE

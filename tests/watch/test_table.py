import io
import re

import pytest
from rich.console import Console

from codistill.watch.table import draw

HEADINGS = "peer state step steps/s samples task loss D agree weight teachers stall quarantined snapshot"


def lines(view, *, width=None, height=None, has_blocks=True):
    console = Console(file=io.StringIO(), width=width or 1000, color_system=None, highlight=False)
    console.print(draw(view, width=width, height=height, has_blocks=has_blocks))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def table(view, **room):
    """Return the headings, and the rows by peer."""
    shown = lines(view, **room)
    first = next(i for i, line in enumerate(shown) if line.startswith("peer "))
    rows = {}
    for line in shown[first + 1 :]:
        if not line:
            break
        rows[line.split()[0]] = line
    return shown[first], rows


def test_every_column_says_what_it_should(view_of):
    headings, rows = table(view_of({"a": {}}))
    assert " ".join(headings.split()) == HEADINGS
    blocks = r"[\u2581-\u2588]{3}"
    expected = (
        rf"a     running  1,200     12\.5   38,400     0\.2500  {blocks}  0\.1250  {blocks}  80\.0%       1"
        r"  b 40, c \?   1\.2%  c                 0-4"
    )
    assert re.fullmatch(expected, rows["a"])


def test_states_say_what_the_watcher_knows(view_of):
    _, rows = table(
        view_of(
            {
                "a": {"is_confirmed": False},
                "b": {"state": "silent", "silent_s": 130.0},
                "c": {"state": "finished"},
                "d": {"state": "unreadable", "problems": ("d is broken.",)},
                "e": {"state": "waiting", "waits_for": "peer 'f' to publish step 50"},
                "g": {"state": "waiting", "is_confirmed": False, "waits_for": "others"},
            }
        )
    )
    assert "running?" in rows["a"]
    assert "silent 2m" in rows["b"]
    assert "finished" in rows["c"]
    assert "unreadable" in rows["d"]
    assert " waiting " in rows["e"]
    assert "waiting?" in rows["g"]


def test_what_peers_wait_for_is_said_below(view_of):
    shown = lines(view_of({"a": {"state": "waiting", "waits_for": "peer 'f' to publish step 50"}, "b": {}}))
    assert shown[1].startswith("1 running, 1 waiting")
    assert shown[-1] == "a: waits for peer 'f' to publish step 50."


def test_what_no_peer_tells_takes_no_room(view_of):
    untold = {"agreement": {}, "weight": None, "stall_share": None, "quarantined": (), "task_losses": (1.0,)}
    headings, _ = table(view_of({"a": untold}))
    assert not {"agree", "weight", "stall", "quarantined"} & set(headings.split())


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 30, 20])
def test_a_narrow_terminal_leaves_out_columns_and_wraps_no_row(view_of, width):
    view = view_of({"a": {}, "a-peer-with-quite-a-long-name-07": {"state": "silent", "silent_s": 20.0}})
    shown = lines(view, width=width)
    assert all(len(line) <= width for line in shown)
    headings, rows = table(view, width=width)
    assert len(rows) == 2
    assert set(headings.split()) <= set(HEADINGS.split())


def test_what_is_needed_most_stays_longest(view_of):
    view = view_of({"a": {}})
    at = {width: table(view, width=width)[0].split() for width in (40, 60, 80)}
    assert at[40][:3] == ["peer", "state", "step"]
    assert {"task", "loss"} <= set(at[40])
    assert {"steps/s", "teachers"} <= set(at[60])
    assert "D" in at[80]
    assert "snapshot" not in at[80]


def test_long_names_keep_both_ends(view_of):
    _, rows = table(view_of({"train-large-host-number-0017": {}}), width=60)
    assert list(rows) == ["train-l..r-0017"]


def test_peers_that_have_ended_make_room_for_those_that_have_not(view_of):
    peers = {f"p{number:02}": {"state": "finished"} for number in range(30)}
    view = view_of({**peers, "z": {}})
    shown = lines(view, width=80, height=20)
    assert any(line.startswith("z ") for line in shown)
    assert "... and 19 more" in shown
    assert len(shown) <= 20


def test_a_store_that_is_away_is_said_above_all(view_of):
    view = view_of({"a": {}}, away_s=14.0, came_back=2, problems=("The store cannot be read: gone.",))
    shown = lines(view)
    assert shown[1] == "1 running; watched for 60s; the store was away 2 times"
    assert shown[2] == "The store is away, for 14s now: this is what was seen before."
    assert "! The store cannot be read: gone." in shown


def test_advice_that_several_peers_give_is_said_once(view_of):
    shown = lines(view_of({"a": {"advice": ("Do.",)}, "b": {"advice": ("Do.", "Or not.")}}))
    assert "a, b: Do." in shown
    assert "b: Or not." in shown


def test_many_problems_are_counted(view_of):
    shown = lines(view_of({"a": {"problems": tuple(f"Wrong {number}." for number in range(50))}}))
    assert "! a: Wrong 0." in shown
    assert "... and 30 more" in shown


def test_words_that_look_like_markup_are_shown_as_they_are(view_of):
    shown = lines(view_of({"a": {"advice": ("[bold]loud[/bold] [/]",)}}, store="runs/[red]x[/red]"))
    assert shown[0] == "runs/[red]x[/red]"
    assert "a: [bold]loud[/bold] [/]" in shown


def test_without_block_characters_there_are_no_courses(view_of):
    shown = lines(view_of({"a": {}}), has_blocks=False)
    assert all(line.isascii() for line in shown)


def test_before_the_first_look_nobody_is_said_to_be_missing(view_of):
    assert lines(view_of({}, run_id=None))[-1] == "Looking ..."


def test_nobody_there_is_said(view_of):
    assert lines(view_of({})) == [
        "runs/x",
        "no peers; watched for 60s",
        "",
        "Nobody publishes here yet.",
    ]


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("step", 2**63 - 1, "9.2e+18"),
        ("step", 12_345_678, "12.3M"),
        ("samples", 5_000_000_000, "5.0G"),
        ("samples", 7 * 10**12, "7.0T"),
        ("task_loss", 1e308, "1e+308"),
        ("steps_per_s", 1234.5, "1234"),
        ("steps_per_s", 0.01234, "0.0123"),
        ("silent_s", 9000.0, "silent 2.5h"),
        ("teachers", dict.fromkeys("bcdefg", 1), "b 1, c 1, d 1, +3"),
    ],
)
def test_great_and_small_numbers_fit(view_of, field, value, shown):
    _, rows = table(view_of({"a": {field: value}}))
    assert f"  {shown}  " in f"  {rows['a']}  "

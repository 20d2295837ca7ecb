"""A view as a table for a terminal, as wide as there is room."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from codistill.watch.sparkline import sparkline
from codistill.watch.view import PeerState, PeerView, View

_NOTHING: Final = "-"
_GAP: Final = 2
_SPARK_WIDTH: Final = 12
_LONGEST_NAME: Final = 24
_SHORTEST_NAME: Final = 8
_TEACHERS: Final = 3
_NOTES: Final = 20
# Beside the peers: two lines above, the headings, a blank line, and some of what is said below.
_LINES_BESIDE_PEERS: Final = 8

_STYLES: Final[dict[PeerState, str]] = {
    "running": "green",
    "waiting": "yellow",
    "silent": "bold red",
    "finished": "dim",
    "left": "dim",
    "unreadable": "bold yellow",
    "unknown": "yellow",
}
_ENDED: Final = ("finished", "left")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    heading: str
    """What stands above it."""
    side: Literal["left", "right"]
    """Where its cells are set."""
    cell: Callable[[PeerView], str]
    """What it says of a peer; empty or "-" for nothing."""
    rank: int
    """Columns with a high rank go first where there is no room."""


_COLUMNS: Final = (
    _Column(heading="peer", side="left", cell=lambda peer: peer.peer, rank=0),
    _Column(heading="state", side="left", cell=lambda peer: _state(peer), rank=1),
    _Column(heading="step", side="right", cell=lambda peer: _count(peer.step), rank=2),
    _Column(heading="steps/s", side="right", cell=lambda peer: _pace(peer.steps_per_s), rank=4),
    _Column(heading="samples", side="right", cell=lambda peer: _count(peer.samples), rank=12),
    _Column(heading="task loss", side="right", cell=lambda peer: _loss(peer.task_loss), rank=3),
    _Column(heading="", side="left", cell=lambda peer: _spark(peer.task_losses), rank=10),
    _Column(heading="D", side="right", cell=lambda peer: _loss(peer.distillation_loss), rank=6),
    _Column(heading="", side="left", cell=lambda peer: _spark(peer.distillation_losses), rank=14),
    _Column(heading="agree", side="right", cell=lambda peer: _agreement(peer), rank=8),
    _Column(heading="weight", side="right", cell=lambda peer: _weight(peer.weight), rank=11),
    _Column(heading="teachers", side="left", cell=lambda peer: _teachers(peer), rank=5),
    _Column(heading="stall", side="right", cell=lambda peer: _stall(peer.stall_share), rank=9),
    _Column(heading="quarantined", side="left", cell=lambda peer: _names(peer.quarantined), rank=7),
    _Column(heading="snapshot", side="right", cell=lambda peer: _snapshot(peer), rank=13),
)
_ALWAYS_SHOWN: Final = 3


def draw(
    view: View, *, width: int | None = None, height: int | None = None, has_blocks: bool = True
) -> RenderableType:
    """Return a view as text: a headline, a row a peer, and below them advice and problems.

    Args:
        view: What to show.
        width: Characters of a line; columns that do not fit are left out, the least needed first. None shows
            all.
        height: Lines there are; peers that do not fit are counted only, those that have ended first. None
            shows all.
        has_blocks: Whether there are characters for the courses of losses.
    """
    most = len(view.peers) if height is None else max(1, height - _LINES_BESIDE_PEERS)
    shown = _choose(view.peers, most)
    parts: list[RenderableType] = [_headline(view, width)]
    if view.away_s is not None:
        since = f"The store is away, for {duration(view.away_s)} now: this is what was seen before."
        parts.append(Text(since, style="bold red"))
    if shown:
        parts += [Text(), _table(shown, width=width, has_blocks=has_blocks)]
    else:
        parts += [Text(), Text("Looking ..." if view.run_id is None else "Nobody publishes here yet.")]
    if len(shown) < len(view.peers):
        parts.append(Text(f"... and {len(view.peers) - len(shown)} more", style="dim"))
    notes = _notes(view)
    if notes:
        parts += [Text(), *notes[:_NOTES]]
    if len(notes) > _NOTES:
        parts.append(Text(f"... and {len(notes) - _NOTES} more", style="dim"))
    return Group(*parts)


def shorten(name: str, most: int) -> str:
    """Return a name of at most so many characters; the middle goes, as names differ at their ends.

    Args:
        name: The name.
        most: How many, >= 4.

    Example:
        >>> shorten("resnet-large-host-07", 12)
        'resne..st-07'
    """
    if len(name) <= most:
        return name
    tail = (most - 2) // 2
    return f"{name[: most - 2 - tail]}..{name[-tail:]}"


def duration(seconds: float) -> str:
    """Return a time in one unit, to be read at a glance.

    Args:
        seconds: >= 0.

    Example:
        >>> duration(42.3), duration(600), duration(9000)
        ('42s', '10m', '2.5h')
    """
    if seconds < 100:
        return f"{seconds:.0f}s"
    if seconds < 6000:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h"


def _headline(view: View, width: int | None) -> Text:
    counts = {
        state: count
        for state in ("running", "waiting", "silent", "finished", "left", "unreadable", "unknown")
        if (count := sum(peer.state == state for peer in view.peers))
    }
    said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no peers"
    said += f"; watched for {duration(view.watched_s)}"
    if view.came_back:
        said += f"; the store was away {view.came_back} time{'s' if view.came_back > 1 else ''}"
    store = view.store if width is None else shorten(view.store, max(4, width))
    return Text.assemble((store, "bold"), "\n", said)


def _choose(peers: Sequence[PeerView], most: int) -> list[PeerView]:
    """Return as many peers as fit; those that are at it, or should be, before those that have ended."""
    first = sorted(peers, key=lambda peer: (peer.state in _ENDED, peer.peer))[:most]
    return sorted(first, key=lambda peer: peer.peer)


def _table(peers: Sequence[PeerView], *, width: int | None, has_blocks: bool) -> Table:
    cells = {column.rank: [column.cell(peer) for peer in peers] for column in _COLUMNS}
    longest = _LONGEST_NAME if width is None else min(_LONGEST_NAME, max(_SHORTEST_NAME, width // 4))
    cells[0] = [shorten(name, longest) for name in cells[0]]
    told = [column for column in _COLUMNS if column.rank < _ALWAYS_SHOWN or _says(cells[column.rank])]
    if not has_blocks:
        told = [column for column in told if column.heading]
    shown = told if width is None else _fitting(told, cells, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(column.heading, justify=column.side, no_wrap=True, overflow="crop")
    for index, peer in enumerate(peers):
        table.add_row(
            *(
                Text(cells[column.rank][index], style=_STYLES[peer.state] if column.rank == 1 else "")
                for column in shown
            )
        )
    return table


def _says(cells: Iterable[str]) -> bool:
    return any(cell not in ("", _NOTHING) for cell in cells)


def _fitting(columns: Sequence[_Column], cells: dict[int, list[str]], width: int) -> list[_Column]:
    """Return the columns for which there is room, the most needed first, in their order."""
    taken, left = set(), width + _GAP
    for column in sorted(columns, key=lambda column: column.rank):
        needed = _GAP + max(cell_len(text) for text in (column.heading, *cells[column.rank]))
        if needed <= left or column.rank == 0:
            taken.add(column.rank)
            left -= needed
    return [column for column in columns if column.rank in taken]


def _notes(view: View) -> list[Text]:
    """Return what is wrong, who waits for what, then what is advised, the same of several peers once."""
    notes = [Text(f"! {problem}", style="red") for problem in view.problems]
    notes += [
        Text(f"! {peer.peer}: {problem}", style="red") for peer in view.peers for problem in peer.problems
    ]
    notes += [
        Text(f"{peer.peer}: waits for {peer.waits_for}.") for peer in view.peers if peer.waits_for is not None
    ]
    givers: dict[str, list[str]] = {}
    for peer in view.peers:
        for sentence in peer.advice:
            givers.setdefault(sentence, []).append(peer.peer)
    notes += [Text(f"{_names(peers)}: {sentence}") for sentence, peers in givers.items()]
    return notes


def _state(peer: PeerView) -> str:
    if peer.silent_s is not None:
        return f"silent {duration(peer.silent_s)}"
    # That a peer lives is its own word until its heartbeat has been seen to move.
    return peer.state if peer.is_settled else f"{peer.state}?"


def _count(number: int | None) -> str:
    if number is None:
        return _NOTHING
    if number < 10**7:
        return f"{number:,}"
    for power, unit in ((9, "M"), (12, "G"), (15, "T")):
        if number < 10**power:
            return f"{number / 10 ** (power - 3):.1f}{unit}"
    return f"{number:.1e}"


def _pace(steps_per_s: float | None) -> str:
    if steps_per_s is None:
        return _NOTHING
    return f"{steps_per_s:.0f}" if steps_per_s >= 100 else f"{steps_per_s:.3g}"


def _loss(loss: float | None) -> str:
    if loss is None:
        return _NOTHING
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.3g}"


def _spark(losses: Sequence[float]) -> str:
    # One point is no course.
    return sparkline(losses, width=_SPARK_WIDTH) if len(losses) > 1 else ""


def _agreement(peer: PeerView) -> str:
    shares = peer.agreement.values()
    return f"{sum(shares) / len(shares):.1%}" if shares else _NOTHING


def _weight(weight: float | None) -> str:
    return _NOTHING if weight is None else f"{weight:.3g}"


def _teachers(peer: PeerView) -> str:
    told = [
        f"{shorten(teacher, 16)} {'?' if age is None else _count(age)}"
        for teacher, age in sorted(peer.teachers.items())
    ]
    return _join(told)


def _stall(share: float | None) -> str:
    return _NOTHING if share is None else f"{share:.1%}"


def _names(names: Sequence[str]) -> str:
    return _join([shorten(name, 16) for name in sorted(names)])


def _join(parts: Sequence[str]) -> str:
    more = [f"+{len(parts) - _TEACHERS}"] if len(parts) > _TEACHERS else []
    return ", ".join([*parts[:_TEACHERS], *more]) or _NOTHING


def _snapshot(peer: PeerView) -> str:
    if peer.sequence is None or peer.incarnation is None:
        return _NOTHING
    return f"{_count(peer.incarnation)}-{_count(peer.sequence)}"

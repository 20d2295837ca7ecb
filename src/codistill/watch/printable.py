"""What strangers wrote, made fit to be shown."""

from typing import Final

LONGEST_TEXT: Final = 600


def printable(text: str) -> str:
    r"""Return a text as one line that does nothing to a terminal, at most 600 characters of it.

    Control characters, line ends and marks that turn the direction of writing become blanks or "?".

    Args:
        text: Whatever it is.

    Example:
        >>> printable("task loss is\x1b[2J NaN")
        'task loss is?[2J NaN'
    """
    line = " ".join(text[: LONGEST_TEXT + 1].split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 3]}..."

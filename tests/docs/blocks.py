"""What the README and the pages tell a reader to run: blocks of Python, and command lines."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCED = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}\S[^\n]*\n(?:^ {8}[^\n]*\n)*)+", re.MULTILINE)
# What an indented block must begin with to be one of commands rather than a formula or a layout.
_PROGRAMS = ("codistill ", "make ", "pip ", "python ", "tensorboard ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command line of a page."""

    page: str
    """The page, from the root."""
    line: str
    """As it stands there, continued lines joined, without a comment or a `&` at its end."""

    @property
    def words(self) -> list[str]:
        """The line as a shell splits it."""
        return shlex.split(self.line)


def name_of(page: Path) -> str:
    """Return a page's path from the root."""
    return page.relative_to(ROOT).as_posix()


def python_blocks(page: Path) -> list[str]:
    """Return the blocks of Python of a page, in order."""
    return [code for language, code in _FENCED.findall(page.read_text()) if language == "python"]


def commands() -> Iterator[Command]:
    """Yield every command line of every page."""
    for page in PAGES:
        text = page.read_text()
        shells = [code for language, code in _FENCED.findall(text) if language in ("sh", "bash", "shell")]
        shells += [
            re.sub("^    ", "", block, flags=re.MULTILINE)
            for block in _INDENTED.findall(_FENCED.sub("", text))
            if block.lstrip().startswith(_PROGRAMS)
        ]
        for shell in shells:
            for line in re.sub(r"\s*\\\n\s*", " ", shell).splitlines():
                line = re.sub(r"\s+#\s.*$", "", line).strip().removesuffix("&").strip()
                if line and not line.startswith("#"):
                    yield Command(page=name_of(page), line=line)

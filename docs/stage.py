"""Lay out what the site is built from: the pages, and what they link to elsewhere in the repository.

    python docs/stage.py build/pages

A page may link to anything in the repository, as ``../examples/three_lines.py`` or ``../LOG.md``, and so its
links work wherever the repository is read. A site holds nothing but its own pages. So what is linked to
becomes a page, under ``repository/``: Markdown as it is, other text in a block of code, a folder as a list of
its files.
"""

import argparse
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# What is linked from the navigation alone.
ALSO = (ROOT / "CHANGELOG.md", ROOT / "LOG.md")

_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".sbatch": "sh", ".json": "json", ".toml": "toml"}


def staged_path(source: Path) -> Path:
    """Return where a file or folder of the repository is, below the folder that the site is built from."""
    if source.is_relative_to(DOCS):
        return source.relative_to(DOCS)
    path = Path("repository") / source.relative_to(ROOT)
    if source.is_dir():
        return path / "index.md"
    return path if source.suffix == ".md" else path.with_name(f"{path.name}.md")


def linked(page: Path, text: str) -> Iterator[Path]:
    """Yield what a page links to outside docs/.

    Args:
        page: Where the page is in the repository.
        text: What it says.

    Raises:
        FileNotFoundError: If there is nothing.
    """
    for _, target, _ in _LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        source = (page.parent / target).resolve()
        if not source.exists():
            raise FileNotFoundError(f"{page.relative_to(ROOT)} must link to what exists, got {target}.")
        if not source.is_relative_to(DOCS):
            yield source


def with_links(page: Path, text: str) -> str:
    """Return the text of a page with its links as they must be on the site."""
    here = staged_path(page).parent

    def moved(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        there = staged_path((page.parent / target).resolve())
        return f"{before}{os.path.relpath(there, here)}{after}"

    return _LINK.sub(moved, text)


def as_page(source: Path) -> str:
    """Return what of the repository is no page as one."""
    name = source.relative_to(ROOT)
    if source.is_dir():
        files = sorted(
            path.name for path in source.iterdir() if path.is_file() and path.name != "__init__.py"
        )
        return f"# {name}/\n\n" + "".join(f"- `{file}`\n" for file in files)
    language = _LANGUAGES.get(source.suffix, "text")
    return f"# {source.name}\n\n`{name}`\n\n````{language}\n{source.read_text(encoding='utf-8')}````\n"


def stage(out: Path) -> None:
    """Write the folder that the site is built from, anew.

    Args:
        out: A folder of its own; what is in it is deleted.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(DOCS, out, ignore=shutil.ignore_patterns("*.py", "__pycache__", "overrides"))
    waiting, seen = [*sorted(DOCS.rglob("*.md")), *ALSO], set()
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        path = out / staged_path(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            waiting += linked(source, text)
            path.write_text(with_links(source, text), encoding="utf-8")
        else:
            path.write_text(as_page(source), encoding="utf-8")


def main() -> None:
    """Stage into the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    stage(parser.parse_args().out)


if __name__ == "__main__":
    main()

"""The site builds, its links lead somewhere, and it asks for nothing from elsewhere."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]

# Attributes by which a page loads something without being asked; a link to click on is not one.
_LOADS = {
    "audio": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
}


class Page(HTMLParser):
    """What a page of the site has: anchors, links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        # The page's own address is no request.
        if values.get("rel") not in ("canonical", "next", "prev"):
            self.loads += [values[name] for name in _LOADS.get(tag, ()) if name in values]


def paths(nav: list) -> list[str]:
    """Return the files that a navigation names."""
    found = []
    for entry in nav:
        for value in entry.values():
            found += paths(value) if isinstance(value, list) else [value]
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Build the site in a folder of its own, as `make docs` does; `.args` holds that folder."""
    pytest.importorskip("zensical", reason="zensical is not installed")
    root = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", root)
    for folder in ("docs", "src"):
        (root / folder).symlink_to(ROOT / folder)
    staging = [sys.executable, str(ROOT / "docs" / "stage.py"), str(root / "build" / "pages")]
    subprocess.run(staging, check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=root,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=200,
    )
    done.args = root
    return done


@pytest.fixture(scope="module")
def pages(built: subprocess.CompletedProcess[str]) -> dict[Path, Page]:
    """Return the pages of the site, by path."""
    site = built.args / "build" / "site"
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


@pytest.mark.spawn
def test_the_site_builds_without_a_warning(built: subprocess.CompletedProcess[str]) -> None:
    assert built.returncode == 0, built.stdout
    assert "No issues found" in built.stdout, built.stdout


@pytest.mark.spawn
def test_every_page_of_the_navigation_is_there_and_every_page_is_in_it(
    built: subprocess.CompletedProcess[str],
) -> None:
    named = paths(CONFIG["nav"])
    for path in named:
        assert (built.args / "build" / "pages" / path).is_file(), path
        assert (built.args / "build" / "site" / path).with_suffix(".html").is_file(), path
    own = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert own <= set(named)
    assert len(named) == len(set(named))


@pytest.mark.spawn
def test_every_link_and_anchor_of_the_site_leads_somewhere(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        # The page for what is not found is shown at any address.
        for link in [] if path.name == "404.html" else page.links + page.loads:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                broken.append(f"{path.name} -> {link}")
            elif url.fragment and target.suffix == ".html":
                # The last is the theme's own: to the top of a page.
                is_there = unquote(url.fragment) in pages[target].anchors | {"__skip"}
                broken += [] if is_there else [f"{path.name} -> {link}"]
    assert broken == []


@pytest.mark.spawn
def test_no_page_asks_for_anything_from_elsewhere(
    built: subprocess.CompletedProcess[str], pages: dict[Path, Page]
) -> None:
    elsewhere = {
        load for page in pages.values() for load in page.loads if urlsplit(load).netloc or "//" in load[:8]
    }
    assert elsewhere == set()
    for style in (built.args / "build" / "site").rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", style.read_text()), style.name


@pytest.mark.spawn
def test_every_public_name_has_an_entry_in_the_reference(
    built: subprocess.CompletedProcess[str], pages: dict[Path, Page]
) -> None:
    reference = built.args / "build" / "site" / "reference"
    for path in sorted((ROOT / "docs" / "reference").glob("*.md")):
        if path.stem == "integrations":
            continue
        module = "codistill" if path.stem == "codistill" else f"codistill.{path.stem}"
        loaded = importlib.import_module(module)
        names = getattr(loaded, "__all__", None) or [
            name
            for name, value in vars(loaded).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module
        ]
        anchors = pages[reference / f"{path.stem}.html"].anchors
        assert {f"{module}.{name}" for name in names} <= anchors
    trainers = pages[reference / "integrations.html"].anchors
    for name in (
        "lightning.CodistillationCallback",
        "transformers.CodistillationTrainer",
        "transformers.CodistillationMixin",
    ):
        assert f"codistill.integrations.{name}" in trainers


@pytest.mark.spawn
def test_the_search_index_has_the_pages_words(built: subprocess.CompletedProcess[str]) -> None:
    index = (built.args / "build" / "site" / "search.json").read_text()
    for words in ("federated distillation", "mean teacher", "break-even interval", "CheckpointExchange"):
        assert words.lower() in index.lower()

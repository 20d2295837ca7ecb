import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 420
# In a frame, as no window of a desktop's Chromium is as narrow as a phone.
MEASURE = """<!doctype html><html><body><iframe width="{width}" height="900" srcdoc="{page}"></iframe><script>
  onload = () => {{
    const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
    const boxes = [...page.querySelectorAll(".box")], figures = [...page.querySelectorAll("svg")];
    const found = document.documentElement.dataset;
    found.width = root.scrollWidth;
    found.scrolling = boxes.filter((box) => box.scrollWidth > box.clientWidth).length;
    found.figures = Math.max(...figures.map((svg) => Math.ceil(svg.getBoundingClientRect().right)));
  }};
</script></body></html>"""

pytestmark = [
    pytest.mark.spawn,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


@pytest.fixture
def browse(tmp_path):
    """Return a function that opens a page without network, and returns what Chromium prints."""

    def open_page(page: Path, *options: str) -> str:
        # Root may not use the sandbox; every name resolves to nothing.
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            *options,
            page.as_uri(),
        ]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=100).stdout

    return open_page


def test_report_opens_in_a_browser_without_network(reported_experiment, browse, tmp_path):
    picture = tmp_path / "report.png"
    browse(reported_experiment / "report.html", f"--screenshot={picture}", "--window-size=1200,900")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    dom = browse(reported_experiment / "report.html", "--dump-dom")
    assert "codistill clicks on adult" in dom
    assert dom.rstrip().endswith("</html>")


def test_nothing_is_wider_than_a_phone(reported_experiment, browse, tmp_path):
    text = (reported_experiment / "report.html").read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(width=PHONE, page=html.escape(text)), encoding="utf-8")
    dom = browse(frame, "--dump-dom")
    found = dict(re.findall(r'data-(\w+)="(\d+)"', dom[: dom.index("<body")]))
    assert int(found["width"]) == PHONE
    # Tables scroll inside boxes of their own; figures shrink.
    assert int(found["scrolling"]) >= 3
    assert PHONE / 2 < int(found["figures"]) < PHONE

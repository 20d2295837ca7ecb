import html
import importlib.resources
import json
import re
import shutil
import subprocess
from dataclasses import asdict

import pytest

from codistill.watch.page_server import PageServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 420
# In a frame, as no window of a desktop's Chromium is as narrow as a phone.
MEASURE = """<!doctype html><html><body><iframe width="{width}" height="900" srcdoc="{page}"></iframe><script>
  onload = () => setTimeout(() => {{
    const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
    const right = (element) => Math.ceil(element.getBoundingClientRect().right);
    const found = document.documentElement.dataset;
    found.width = root.scrollWidth;
    found.rows = page.querySelectorAll("tbody tr").length;
    found.courses = Math.max(...[...page.querySelectorAll("svg")].map(right));
  }}, 500);
</script></body></html>"""
# In place of the network.
ANSWER = "<script>window.fetch = async () => ({{ok: true, json: async () => ({document})}});</script>"

pytestmark = [
    pytest.mark.spawn,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


@pytest.fixture
def browse(tmp_path):
    """Return a function that opens an address, no other name or place, and returns what Chromium prints."""

    def open_page(address, *options):
        # Root may not use the sandbox; every name resolves to nothing.
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--virtual-time-budget=3000",
            f"--user-data-dir={tmp_path / 'profile'}",
            *options,
            address,
        ]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=100).stdout

    return open_page


@pytest.fixture
def view(view_of):
    """Return a view with all that a page has to bear."""
    long_name = "a-peer-with-quite-a-long-name-" + "x" * 30
    return view_of(
        {
            "a": {"advice": ("<img src=x onerror=\"document.title='taken'\"> & more",)},
            "b": {"state": "silent", "silent_s": 130.0, "is_confirmed": False},
            long_name: {"teachers": {long_name: 7, "a": 10**9}, "task_loss": 1e300},
            "d": {"state": "unreadable", "problems": ("d: " + "broken" * 90,), "step": None},
            "e": {"state": "waiting", "waits_for": "peer <b> to publish " + "steps" * 40, "step": 0},
        },
        store="s3://bucket/" + "deep/" * 40,
        away_s=14.0,
    )


def test_the_page_shows_what_it_is_told(browse, view):
    with PageServer(lambda: view, interval_s=60.0, host="127.0.0.1", port=0) as server:
        dom = browse(server.url, "--dump-dom")
    assert re.search(r"<title>2 running, 1 waiting, 1 silent, 1 unreadable - codistill watch</title>", dom)
    assert "silent for 2 min" in dom
    assert "&lt;img src=x" in dom
    assert "The store is away, for 14 s now" in dom
    assert "e waits for peer &lt;b&gt; to publish" in dom
    assert len(re.findall(r"<polyline points=\"[0-9., ]+\"", dom)) == 10
    assert dom.rstrip().endswith("</html>")


def test_nothing_is_wider_than_a_phone(browse, view, tmp_path):
    page = importlib.resources.files("codistill.watch").joinpath("page.html").read_text(encoding="utf-8")
    answer = ANSWER.format(document=json.dumps({"interval_s": 60.0, **asdict(view)}))
    page = page.replace("<head>", f"<head>{answer}", 1)
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(width=PHONE, page=html.escape(page)), encoding="utf-8")
    dom = browse(frame.as_uri(), "--dump-dom")
    found = dict(re.findall(r'data-(\w+)="(\d+)"', dom[: dom.index("<body")]))
    assert (int(found["width"]), int(found["rows"])) == (PHONE, 5)
    assert PHONE / 2 < int(found["courses"]) < PHONE

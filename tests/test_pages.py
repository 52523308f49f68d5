"""The built pages in a browser: pictures, equations and search, without a network.

`.ci/run` builds the pages and names their folder in `PPGEN_HTML`; without it, or without Chromium,
there is nothing to look at.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
HTML = os.environ.get("PPGEN_HTML")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
    pytest.mark.skipif(HTML is None, reason="PPGEN_HTML names no folder of built pages"),
]

# Loads one page in a frame, waits until it has settled, and says what is to be seen there.
LOOK = """<!doctype html><body><script>
const frame = document.createElement("iframe");
frame.width = 1200; frame.height = 900;
frame.src = "/PAGE";
const seen = () => {
  const page = frame.contentDocument, all = (css) => [...page.querySelectorAll(css)];
  const size = (e) => e.getBoundingClientRect();
  const loaded = frame.contentWindow.performance.getEntriesByType("resource").map((e) => e.name);
  return {
    pictures: all("article img").map((e) => [e.src, e.naturalWidth]),
    math: all(".math").length,
    typeset: all(".math mjx-container").filter((e) => size(e).width > 0).length,
    mistakes: all("mjx-merror, [data-mjx-error]").length,
    foreign: loaded.filter((name) => !name.startsWith(location.origin) && !/^data:/.test(name)),
    found: all("#search-results li a").map((e) => e.getAttribute("href")),
  };
};
frame.onload = async () => {
  let last = "";
  for (let i = 0, still = 0; i < 300 && still < 10; i++) {
    await new Promise((go) => setTimeout(go, 100));
    const now = JSON.stringify(seen());
    still = now === last ? still + 1 : 0;
    last = now;
  }
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = last;
  frame.remove();
  document.body.append(out);
};
document.body.append(frame);
</script>"""


class Pages(http.server.SimpleHTTPRequestHandler):
    """The folder, and for each page another one that looks at it."""

    def do_GET(self):
        if not self.path.startswith("/look/"):
            return super().do_GET()
        page = LOOK.replace("PAGE", self.path.removeprefix("/look/")).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    """A function of a page, to what is seen on it."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Pages, directory=HTML)
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    profile = tmp_path_factory.mktemp("chromium")
    options = [
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync",
        "--disable-background-networking --disable-component-update --dump-dom",
        "--virtual-time-budget=60000",
    ]

    def run(page):
        command = [CHROMIUM, *" ".join(options).split(), f"--user-data-dir={profile}"]
        # Nothing but the pages can be reached, whatever machine this is.
        command.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        command.append(f"http://127.0.0.1:{server.server_port}/look/{page}")
        out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', out.stdout, re.S)[1]))

    yield run
    server.shutdown()
    server.server_close()
    thread.join()


def pages():
    return sorted(str(path.relative_to(HTML)) for path in Path(HTML or "").rglob("*.html"))


def test_pictures_and_equations_are_there_without_a_network(look):
    with_pictures, with_math = 0, 0
    for page in pages():
        text = (Path(HTML) / page).read_text(encoding="utf-8")
        if not re.search(r'<img|class="math', text):
            continue
        seen = look(page)
        assert all(width > 0 for _, width in seen["pictures"]), (page, seen["pictures"])
        assert seen["math"] == seen["typeset"], page
        assert seen["mistakes"] == 0 and seen["foreign"] == [], (page, seen)
        with_pictures += bool(seen["pictures"])
        with_math += bool(seen["math"])
    assert with_pictures >= 2, with_pictures
    assert with_math >= 2, with_math


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("iwelbo", "reference/objectives.html"),
        ("catalogue", "errors.html"),
        ("amplitude", "tutorials/"),
    ],
)
def test_search_finds(look, word, page):
    found = look(f"search.html?q={word}")["found"]
    assert any(page in link for link in found), found


def test_search_finds_nothing_where_there_is_nothing(look):
    assert look("search.html?q=qqxzw")["found"] == []

"""The report in a real browser: it fits a phone and a desk, loads nothing, and reports no error."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading

import pytest
from make_labeled_videos import make_labeled_videos
from make_run import make_run
from paths import ROOT
from PIL import Image

from keras_netvlad.videos import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium; `apt-get install chromium` installs it"),
]

# Shows the report in a frame of a given width and writes down what it measures. The report itself may run no scripts.
HARNESS = """<!doctype html><html><head><meta charset="utf-8"></head><body><pre id="measured"></pre>
<iframe src="/report.html" style="border:0;width:{width}px;height:900px"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, inside = element => element.closest(".scroll") === null;
  const wide = [...page.body.querySelectorAll("*")].filter(
    element => inside(element) && !element.closest(".hidden") && element.getBoundingClientRect().right > {width} + 0.5);
  const small = [...page.querySelectorAll("body *")].filter(
    element => element.childElementCount === 0 && element.textContent.trim()
      && parseFloat(frame.contentWindow.getComputedStyle(element).fontSize) < 11);
  document.getElementById("measured").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    scrolled: page.documentElement.scrollWidth,
    wide: wide.map(element => element.outerHTML.slice(0, 100)),
    small: small.map(element => element.outerHTML.slice(0, 100)),
    broken: [...page.images].filter(image => !image.naturalWidth).length,
    images: page.images.length,
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    height: page.documentElement.scrollHeight,
  }});
}};
</script></body></html>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes the requests and stays silent."""

    requested: list = []

    def log_request(self, code="-", size="-"):
        self.requested.append((self.path, str(int(code))))

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module", params=["single_label", "multi_label"])
def site(tmp_path_factory, request):
    """A server with a report, whose names are long and contain HTML."""
    folder = tmp_path_factory.mktemp("site")
    rows = make_labeled_videos(folder / "videos", ("flower", "phone", "portrait", "temple"), seconds=1)
    long_names = {"flower": "a class with a name of many words, <b>one of them</b>", "phone": "x" * 70}
    rows = [(path, long_names.get(label, label), group) for path, label, group in rows]
    make_run(folder / "run", rows, request.param, num_clusters=64, frames=5, fps=5.0, videos=folder / "videos")
    write_report(folder / "run", folder / "report.html")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def measure(site, tmp_path, width, scheme):
    folder, address = site
    (folder / "harness.html").write_text(HARNESS.format(width=width), encoding="utf-8")
    Handler.requested.clear()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=10000"]
    options += [f"--user-data-dir={tmp_path}", f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom"]
    finished = subprocess.run(
        [BROWSER, *options, f"{address}/harness.html"], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="measured">(.*?)</pre>', finished.stdout, flags=re.DOTALL)
    return json.loads(html.unescape(found.group(1))), finished.stderr


@pytest.mark.parametrize(("width", "scheme", "paper"), [(390, 1, "rgb(253, 253, 252)"), (1280, 0, "rgb(21, 23, 26)")])
def test_the_page_fits_and_is_whole(site, tmp_path, width, scheme, paper):
    measured, logged = measure(site, tmp_path, width, scheme)
    assert measured["width"] <= width
    assert measured["scrolled"] == measured["width"]
    assert measured["wide"] == []
    assert measured["small"] == []
    assert measured["broken"] == 0
    assert measured["images"] > 50
    assert measured["paper"] == paper
    assert 2000 < measured["height"] < 15000
    assert "CONSOLE" not in logged, logged
    asked = {path for path, _ in Handler.requested} - {"/favicon.ico"}
    assert asked == {"/harness.html", "/report.html"}


def test_the_picture_of_the_documentation_is_taken(site, tmp_path):
    folder, _ = site
    program = [sys.executable, str(ROOT / "docs" / "make_report_picture.py"), str(folder / "run")]
    subprocess.run([*program, "--output", str(tmp_path / "report.png")], check=True, timeout=200)
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1100, 1160)
        assert 20 < len(picture.convert("RGB").getcolors(10**6)) <= 256

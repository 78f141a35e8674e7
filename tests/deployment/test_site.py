"""The documentation site that `make docs` has built: its links, its text, and its pages in a browser."""

import functools
import html.parser
import http.server
import importlib
import shutil
import sys
import threading
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from paths import ROOT

pytestmark = pytest.mark.docs

SITE = ROOT / "build" / "site"
WIDTHS = (390, 1280)
PACKAGES = (
    "keras_netvlad",
    *(f"keras_netvlad.{name}" for name in ("layers", "models", "losses", "metrics", "callbacks", "data", "videos")),
    *(f"keras_netvlad.{name}" for name in ("training", "export", "retrieval", "plot", "convert")),
)


class Page(html.parser.HTMLParser):
    """The anchors, links, loaded files and paragraphs of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded, self.paragraphs = {""}, [], [], []
        self.in_paragraph = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values or tag == "link":
            self.loaded.append(values.get("src", values.get("href")))
        if tag == "p":
            self.in_paragraph = True
            self.paragraphs.append("")
        elif tag in ("code", "kbd"):
            self.in_paragraph = False

    def handle_endtag(self, tag):
        if tag == "p":
            self.in_paragraph = False
        elif tag == "code" and self.paragraphs:
            self.in_paragraph = True

    def handle_data(self, data):
        if self.in_paragraph:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def pages():
    return {path.relative_to(SITE).as_posix(): Page(path) for path in SITE.rglob("*.html")}


def target_of(page, link):
    """Returns the file of the site that a link of a page leads to, and the anchor."""
    parts = urlsplit(urljoin(f"http://site/{page}", link))
    path = unquote(parts.path).removeprefix("/")
    return path + "index.html" if not path or path.endswith("/") else path, unquote(parts.fragment)


def test_every_link_leads_to_a_page_and_an_anchor(pages):
    broken = []
    for name, page in pages.items():
        if name == "404.html":  # its links are absolute, as it is shown at any address
            continue
        for link in [*page.links, *page.loaded]:
            if urlsplit(link).scheme in ("http", "https", "data", "mailto"):
                continue
            path, anchor = target_of(name, link)
            if not (SITE / path).is_file() or (path in pages and anchor not in pages[path].anchors):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_other_hosts(pages):
    assert [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc] == []


def test_lists_and_tables_are_not_left_as_text(pages):
    lines = [line for page in pages.values() for text in page.paragraphs for line in text.splitlines()]
    assert len(lines) > 1000
    assert [line for line in lines if line.startswith(("- ", "* ", "| ", "```", ">>> "))] == []


def test_every_public_name_is_described(pages):
    for package in PACKAGES:
        page = pages[f"api/{package.partition('.')[2]}/index.html".replace("//", "/")]
        names = set(importlib.import_module(package).__all__) - {"__version__"}
        # A function in a file of the same name is described under the path of the file.
        for name in names:
            assert page.anchors & {f"{package}.{name}", f"{package}.{name}.{name}"}, f"{package}.{name}"


def test_a_docstring_becomes_titles_definitions_and_code(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    to_markdown = importlib.import_module("docstrings").to_markdown
    docstring = """Pools features.

Args:
    num_clusters: Integer, `K`. At
        least 1.
    a, **kwargs: Others.

Output shape:
    `(B, K)`.

Example:

>>> for k in (1, 2):
...     print(k)
1
2

>>> k  # doctest: +SKIP
2

The end."""
    assert " ".join(to_markdown(docstring).split()) == (
        "Pools features. **Args** {: .section } `num_clusters` : Integer, `K`. At least 1. `a`, `**kwargs` : Others. "
        "**Output shape** {: .section } `(B, K)`. **Example** {: .section } ```python for k in (1, 2): print(k) # 1 "
        "# 2 k # 2 ``` The end."
    )
    del sys.modules["docstrings"]


@pytest.fixture(scope="module")
def address():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# A change of the width takes effect at once.
NO_TRANSITIONS = """addEventListener("DOMContentLoaded", () => document.head.append(Object.assign(
    document.createElement("style"), {textContent: "*, ::before, ::after { transition: none !important }"})))"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "install Chromium, which looks at the pages: `apt-get install chromium`"
    with sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


# Elements that end to the right of the screen, unless an element around them scrolls; pictures without content.
FAULTS = """() => {
    const scrolls = element => {
        for (; element; element = element.parentElement) {
            if (/auto|scroll|hidden/.test(getComputedStyle(element).overflowX)) return true;
        }
    };
    const wide = [...document.querySelectorAll(".md-content *")].filter(
        element => element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element));
    const missing = [...document.images].filter(image => !image.complete || !image.naturalWidth);
    const flat = [...document.querySelectorAll("table td")].filter(cell => cell.textContent.startsWith("|"));
    const faults = [...wide, ...missing, ...flat].map(element => element.outerHTML.slice(0, 80));
    const root = document.documentElement;
    return root.scrollWidth > root.clientWidth ? [...faults, "the page scrolls sideways"] : faults;
}"""


def test_pages_fit_and_show_their_pictures(pages, address, browser):
    tab = browser.new_page()
    # The index of the search is half a megabyte, which each page would read.
    tab.route("**/search_index.json", lambda route: route.abort())
    tab.add_init_script(NO_TRANSITIONS)
    errors = []
    for name in sorted(pages):
        # Pages of source are one block of code each.
        if name == "404.html" or name.startswith("source/"):
            continue
        tab.goto(f"{address}/{name}", wait_until="load")
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            errors += [f"{name}, {width} pixels wide: {fault}" for fault in tab.evaluate(FAULTS)]
    tab.close()
    assert errors == []


def test_search_finds_and_code_can_be_copied(address, browser):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(f"{address}/layer/")
    assert tab.locator(".md-content pre > .md-clipboard, .md-content .md-code__button").count() >= 5
    tab.locator("[data-md-component=search-query]").fill("ghost clusters")
    tab.locator(".md-search-result__link").first.wait_for(timeout=20_000)
    assert "netvlad" in tab.locator(".md-search-result__list").inner_text().lower()
    tab.close()

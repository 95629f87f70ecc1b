"""The built pages, in a real browser: desktop and phone, light and dark, no network.

The tests look at `_build/html`, so build the book first. Without a build that is newer
than its sources, or without Chromium, they are skipped; with ``BOOK_PAGES=require`` in
the environment, as CI sets it, they fail instead.
"""

import functools
import http.server
import json
import os
import shutil
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(c["file"] for p in TOC["parts"] for c in p["chapters"])]
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
MODES = [(screen, theme) for screen in SCREENS for theme in ("light", "dark")]

every_page = pytest.mark.parametrize("page", PAGES)
every_view = pytest.mark.parametrize(
    ("screen", "theme"), MODES, ids=[f"{s}-{t}" for s, t in MODES]
)


def need(present, what):
    """Skip the test, or fail it where CI requires the pages, if ``what`` is missing."""
    if present:
        return
    if os.environ.get("BOOK_PAGES") == "require":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def build():
    """The folder of the built book, which must be newer than its sources."""
    need((HTML / "index.html").exists(), "the book is not built")
    built = max((HTML / f"{page}.html").stat().st_mtime for page in pages_on_disk())
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml"]
    sources += [p for p in (ROOT / "book").glob("*.*") if p.suffix != ".py"]
    newer = [p.name for p in sources if p.stat().st_mtime > built]
    need(not newer, f"the build is older than {', '.join(newer)}")
    return HTML


def pages_on_disk():
    missing = [page for page in PAGES if not (HTML / f"{page}.html").exists()]
    need(not missing, f"the build lacks {', '.join(missing)}")
    return PAGES


# ---- What the HTML itself says ----


class Page(HTMLParser):
    """The links, anchors and loaded files of one HTML page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag == "link" and attrs.get("rel") not in ("canonical", "search"):
            self.loads.append(attrs.get("href", ""))
        elif attrs.get("src"):
            self.loads.append(attrs["src"])


@functools.cache
def parsed(path):
    return Page(path)


@every_page
def test_local_links_lead_somewhere(build, page):
    here = build / f"{page}.html"
    broken = []
    for link in parsed(here).links + parsed(here).loads:
        url = urllib.parse.urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = here
        if url.path:
            target = (here.parent / urllib.parse.unquote(url.path)).resolve()
        fragment = urllib.parse.unquote(url.fragment)
        if not target.is_file():
            broken.append(link)
        elif target.suffix == ".html" and fragment:
            broken += [link] * (fragment not in parsed(target).ids)
    assert not broken


@every_page
def test_html_loads_from_no_other_host(build, page):
    loads = parsed(build / f"{page}.html").loads
    assert not [url for url in loads if urllib.parse.urlsplit(url).netloc]


# ---- What a browser makes of it ----


@pytest.fixture(scope="module")
def site(build):
    """Address of a web server on this machine that serves the built book."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(build))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium for all tests, cut off from every host but this one."""
    selenium = pytest.importorskip("selenium.webdriver")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    need(chromium, "Chromium is not installed")
    need(driver, "chromedriver is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = selenium.ChromeService(executable_path=driver)
    browser = selenium.Chrome(options=options, service=service)
    browser.set_page_load_timeout(60)
    browser.set_script_timeout(60)
    yield browser
    browser.quit()


SETTLED = """
const done = arguments[0];
const drawn = () => requestAnimationFrame(() => done());
const fonts = () => document.fonts.ready.then(drawn);
if (window.MathJax && MathJax.startup) MathJax.startup.promise.then(fonts);
else fonts();
"""

LOOK = r"""
const article = document.querySelector("article");
const wide = arguments[0] + 1;  // not innerWidth: a phone zooms out of a wide page
const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
const boxed = e => {
  for (let a = e; a && a !== article; a = a.parentElement) if (scrolls(a)) return true;
  return false;
};
const name = e => e.tagName.toLowerCase() + ": " + e.textContent.trim().slice(0, 60);

// Text as a reader sees it: outside code, and outside what MathJax has typeset. What
// of a formula or a reference is left in it was not rendered.
const RAW = /\\\(|\\\[|\$\$|\\begin\{|\{(doc|ref|eq|numref|cite)\w*\}`/g;
const prose = article.cloneNode(true);
for (const e of prose.querySelectorAll("pre, code, script, mjx-container")) e.remove();

const light = rgba => {
  const [r, g, b, a = 1] = rgba.match(/[\d.]+/g).map(Number);
  return a === 1 && Math.min(r, g, b) > 200;
};
// The ground of a figure: the pixels along its edges, over its background.
const ground = img => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [200, 200];
  const pen = canvas.getContext("2d");
  pen.drawImage(img, 0, 0, 200, 200);
  const style = getComputedStyle(img);
  const at = [2, 50, 100, 150, 197];
  const spots = at.flatMap(x => [[x, 2], [x, 197], [2, x], [197, x]]).map(([x, y]) => {
    const [r, g, b, a] = pen.getImageData(x, y, 1, 1).data;
    if (a < 255) return {opaque: light(style.backgroundColor), light: true};
    return {opaque: true, light: Math.min(r, g, b) > 200};
  });
  const mostly = spots.filter(s => s.light).length > 0.7 * spots.length;
  return style.filter === "none" && spots.every(s => s.opaque) && mostly;
};

return {
  theme: document.documentElement.dataset.theme,
  maths: article.querySelectorAll(".math").length,
  typeset: article.querySelectorAll("mjx-container").length,
  wrong: [
    ...article.querySelectorAll("mjx-merror, mjx-mtext[style*=red]"),
    ...[...article.querySelectorAll("mjx-assistive-mml")]
      .filter(e => e.textContent.includes("\\")),  // a command that stayed text
  ].map(name),
  raw: prose.textContent.match(RAW) || [],
  width: document.documentElement.scrollWidth,
  limit: wide,
  outside: [...article.querySelectorAll("*")]
    .filter(e => e.getBoundingClientRect().right > wide && !boxed(e)
      && !e.closest("mjx-assistive-mml"))
    .map(name),
  cut: [...article.querySelectorAll("pre")]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && !boxed(e)).map(name),
  images: [...article.querySelectorAll("img")].map(img => ({
    src: img.src.split("/").pop(),
    alt: img.alt,
    natural: img.complete ? img.naturalWidth : 0,
    shown: img.getBoundingClientRect().width,
    ground: img.naturalWidth > 0 && ground(img),
  })),
};
"""


@pytest.fixture(scope="module")
def visit(browser, site):
    """A function that opens a page in one view, once, and says what is to be seen."""

    def as_seen_on(screen, theme):
        width, height = SCREENS[screen]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            metrics | {"mobile": screen == "phone"},
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    @functools.cache
    def look(page, screen, theme):
        as_seen_on(screen, theme)
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(f"{site}/{page}.html")
        browser.execute_async_script(SETTLED)
        seen = browser.execute_script(LOOK, SCREENS[screen][0])
        seen["console"] = [
            entry["message"]
            for entry in browser.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
        events = [
            json.loads(entry["message"])["message"]
            for entry in browser.get_log("performance")
        ]
        seen["requests"] = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return seen

    look.as_seen_on = as_seen_on
    return look


@every_view
@every_page
def test_nothing_goes_wrong_while_loading(visit, site, page, screen, theme):
    seen = visit(page, screen, theme)
    assert seen["theme"] == theme
    assert seen["console"] == []
    local = (f"{site}/", "data:", "blob:")
    assert seen["requests"], "the browser logged no request, so this shows nothing"
    assert [url for url in seen["requests"] if not url.startswith(local)] == []


@every_view
@every_page
def test_maths_is_typeset(visit, page, screen, theme):
    seen = visit(page, screen, theme)
    assert seen["typeset"] >= seen["maths"]
    assert seen["wrong"] == []
    assert seen["raw"] == []


@every_view
@every_page
def test_page_does_not_scroll_sideways(visit, page, screen, theme):
    seen = visit(page, screen, theme)
    assert seen["width"] <= seen["limit"]
    assert seen["outside"] == []
    assert seen["cut"] == []


@every_view
@every_page
def test_figures_are_legible(visit, page, screen, theme):
    for image in visit(page, screen, theme)["images"]:
        assert image["natural"] > 0, f"{image['src']} did not load"
        assert image["alt"].strip(), f"{image['src']} has no alt text"
        assert image["shown"] >= 300, f"{image['src']} is shown too small"
        assert image["ground"], f"{image['src']} has no light, opaque ground"


def test_some_page_has_maths_and_figures(visit):
    seen = [visit(page, "desktop", "light") for page in PAGES]
    assert sum(page["maths"] for page in seen) > 0
    assert sum(len(page["images"]) for page in seen) > 0


@every_page
def test_solutions_open(visit, browser, site, page):
    visit.as_seen_on("phone", "light")
    browser.get(f"{site}/{page}.html")
    browser.execute_async_script(SETTLED)
    for fold in browser.find_elements("css selector", "article .solution.dropdown"):
        body = fold.find_element("css selector", "section")
        assert not body.is_displayed()
        browser.execute_script(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", fold
        )
        fold.find_element("css selector", "button.toggle-button").click()
        wait_until(browser, lambda _, body=body: body.is_displayed())
    seen = browser.execute_script(LOOK, SCREENS["phone"][0])
    assert seen["width"] <= seen["limit"]
    assert seen["outside"] == []


def test_front_page_and_search(visit, browser, site):
    visit.as_seen_on("desktop", "light")
    browser.get(f"{site}/index.html")
    wait_until(browser, lambda _: browser.current_url.endswith(f"{PAGES[0]}.html"))
    browser.get(f"{site}/search.html?q=softmax")
    found = "#search-results li a"
    wait_until(browser, lambda _: browser.find_elements("css selector", found))


def wait_until(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(condition)

"""The page in a real browser: axe-core finds nothing, it fits, and it prints whole.

Needs Chromium (Debian's package `chromium`) and efface[browser]: `make accessibility`.
"""

import importlib.util
import io
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from efface.report.evidence import Evidence, gather
from efface.report.page import page
from tests.report.folders import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NEEDED = ("axe_playwright_python", "playwright", "pypdf")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: make accessibility"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
PHONE, DESK, A4 = 360, 1280, 718
"""Widths in pixels; that of A4 less the margins it is printed with here."""
UNFOLD = "document.querySelectorAll('details').forEach(d => { d.open = true })"
BROKEN = """<!doctype html><html lang="en"><head><title>t</title></head><body><main><h1>t</h1>
<p style="color: #aaa; background: #fff">faint</p><img src="data:,"></main></body></html>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def evidence(audited: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Evidence]:
    """A real audit, one that found much, one that failed, and long names."""
    root = tmp_path_factory.mktemp("runs")
    attacked = write_run(root / "attacked", attacked=(0.9,) * 4 + (0.2,) * 4, kept=(0.2, 0.9) * 5)
    failed = write_run(root / "failed", attacked=(None,) * 8, erased=(0.9, None) + (0.1,) * 6)
    long = write_run(root / "long", prompt="a " + "very" * 40 + " cat", finished=False)
    return [gather(folder) for folder in (audited, attacked, failed, long)]


def opened(browser: Any, text: str, width: int = DESK, **more: Any) -> Any:
    """The page of a text, after its own layout."""
    shown = browser.new_page(viewport={"width": width, "height": 900}, **more)
    shown.set_content(text, wait_until="load")
    return shown


def violations(shown: Any) -> set[str]:
    """What axe-core says against it, with the first places."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(shown).response["violations"]
    return {f"{v['id']}: {[node['target'] for node in v['nodes'][:3]]}" for v in found}


def test_axe_sees_what_is_wrong(browser: Any) -> None:
    shown = opened(browser, BROKEN)
    assert {v.partition(":")[0] for v in violations(shown)} == {"color-contrast", "image-alt"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("blurred", [True, False])
def test_axe_finds_nothing(
    browser: Any, evidence: list[Evidence], scheme: str, blurred: bool
) -> None:
    for runs in ([evidence[0]], evidence):
        shown = opened(browser, page(runs, blurred=blurred), color_scheme=scheme)
        shown.evaluate(UNFOLD)
        assert violations(shown) == set()


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_stands_out_sideways(browser: Any, evidence: list[Evidence], width: int) -> None:
    shown = opened(browser, page(evidence, blurred=True), width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_it_asks_for_nothing(browser: Any, evidence: list[Evidence]) -> None:
    asked = list[str]()
    shown = browser.new_page()
    shown.on("request", lambda request: asked.append(request.url))
    shown.set_content(page(evidence, blurred=False), wait_until="load")
    assert not [url for url in asked if not url.startswith("data:")]


def test_it_prints_whole(browser: Any, evidence: list[Evidence]) -> None:
    from pypdf import PdfReader

    whole = page(evidence, blurred=True)
    unfolded = opened(browser, whole)
    unfolded.evaluate(UNFOLD)
    text = unfolded.evaluate("document.querySelector('main').innerText")
    shown = opened(browser, whole, A4)
    shown.emulate_media(media="print")
    assert shown.evaluate("document.documentElement.scrollWidth") <= A4
    printed = shown.pdf(format="A4", margin=dict.fromkeys(("left", "right"), "10mm"))
    pages = PdfReader(io.BytesIO(printed)).pages
    assert len(pages) > len(evidence)
    told = bare("".join(leaf.extract_text() for leaf in pages))
    for found in evidence:
        assert bare(found.verdict.sentence) in told
    lost = [line for line in text.splitlines() if bare(line) not in told]
    assert not lost


def bare(text: str) -> str:
    """Letters and digits alone: lines break elsewhere on paper, and fi may be one letter."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).lower()

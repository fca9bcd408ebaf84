"""The page: self-contained, without script, readable by machines and by those who cannot see it."""

import itertools
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from efface.report.evidence import gather
from efface.report.page import page
from tests.report.folders import write_run

Cli = Callable[..., Any]
VOID = {"meta", "input", "img", "br", "path", "rect", "circle"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x' {{ 7*7 }} </style>"


class Page(HTMLParser):
    """Every element with its attributes, and whether all of them are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.said = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def real(audited: Path) -> str:
    return page([gather(audited)], blurred=True)


def check_self_contained(text: str) -> None:
    """Nothing is fetched and nothing runs."""
    parsed = Page(text)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.found}
    for _, attrs in parsed.found:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "action", "srcset"):
            if name in attrs:
                assert re.match(r"data:image/|#", attrs[name] or "")
    assert not re.search(r"url\(|@import|https?:", text)
    [policy] = [a for a in parsed.all("meta") if a.get("http-equiv")]
    assert (policy["content"] or "").startswith("default-src 'none'")


def check_accessible(text: str) -> None:
    """What axe's structural rules ask for."""
    parsed = Page(text)
    assert not parsed.open
    assert parsed.all("html")[0]["lang"] == "en"
    assert len(parsed.all("title")) == len(parsed.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in parsed.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert parsed.all("img")
    assert all(attrs.get("alt") for attrs in parsed.all("img"))
    for attrs in parsed.all("svg"):
        assert attrs.get("aria-hidden") == "true" or attrs.get("aria-label")
    ids = [attrs["id"] for _, attrs in parsed.found if "id" in attrs]
    assert len(set(ids)) == len(ids)
    labelled = {attrs.get("for") for attrs in parsed.all("label")}
    assert all(attrs["id"] in labelled for attrs in parsed.all("input"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))


def test_real_run(real: str) -> None:
    check_self_contained(real)
    check_accessible(real)
    said = Page(real).said
    for word in ("“cat” erased", "rece", "casing", "Certificate and drift", "SHA-256", "attack"):
        assert word in said


def test_several_runs_on_one_page(audited: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", attacked=(None,) + (0.9,) * 7)
    text = page([gather(audited), gather(other)], blurred=False)
    check_self_contained(text)
    check_accessible(text)
    assert "2 audits" in Page(text).said
    assert not Page(text).all("input")


def test_blurred_until_asked(tmp_path: Path) -> None:
    found = gather(write_run(tmp_path / "run"))
    [box] = Page(page([found], blurred=True)).all("input")
    assert box["type"] == "checkbox"
    assert "checked" not in box
    assert not Page(page([found], blurred=False)).all("input")
    whole = page([found], blurred=True)
    inside = whole.split('<div class="concept">')[1].split("<h3>")[0]
    assert '<input type="checkbox"' in inside
    assert inside.count("<img") == 3 * 8, "and no other picture is blurred with them"
    assert whole.count("<img") > inside.count("<img")


@pytest.mark.parametrize("place", ["prompt", "concept", "named", "kept"])
def test_hostile_strings_are_text(place: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    match place:
        case "named":
            evil = {"name": HOSTILE, HOSTILE: HOSTILE}
            patch = {"eraser": evil, "facts": {"stopped": HOSTILE}}
            write_run(run, named={"model": HOSTILE, "erased": HOSTILE, "patch": patch})
        case "kept":
            write_run(run)
            for name in ("rows.jsonl", "base.jsonl"):
                text = (run / name).read_text()
                said = HOSTILE.replace('"', '\\"')
                (run / name).write_text(text.replace("a dog", said).replace('"dog"', f'"{said}"'))
        case _:
            write_run(run, **{place: HOSTILE}, attacked=(0.9,) * 8)  # type: ignore[arg-type]
    text = page([gather(run)], blurred=False)
    check_self_contained(text)
    check_accessible(text)
    assert HOSTILE in Page(text).said
    assert "{{ 7*7 }}" in text


def test_failures_are_shown(tmp_path: Path) -> None:
    text = page(
        [gather(write_run(tmp_path / "run", attacked=(None,) * 2 + (0.1,) * 6))], blurred=False
    )
    said = Page(text).said
    assert "2 of 52 pictures failed" in said
    assert "ValueError: the detector failed" in said
    assert "2 prompts could not be judged under it" in said


def test_damaged_pictures_are_not_shown(audited: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(audited, run)
    pictures = sorted((run / "pictures").iterdir())
    whole = len(Page(page([gather(run)], blurred=False)).all("img"))
    pictures[0].write_bytes(pictures[1].read_bytes())  # a picture, but not what was judged
    for path in pictures[1:]:
        path.unlink()
    parsed = Page(page([gather(run)], blurred=False))
    assert whole > 0
    assert not parsed.all("img")
    assert "picture is damaged or gone" in parsed.said


def test_command(cli: Cli, audited: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = cli("report", audited, "-o", out, "--json")
    assert done.code == 0, done.err
    assert f'"bytes": {out.stat().st_size}' in done.out
    check_self_contained(out.read_text())
    assert Page(out.read_text()).all("input"), "not emoji: blurred by default"
    assert cli("report", audited, "-o", out).code == 2
    assert cli("report", audited, "-o", out, "--force", "--no-blur").code == 0
    assert not Page(out.read_text()).all("input")
    assert cli("report", audited).code == 2


def test_nothing_depends_on_when_it_is_written(audited: Path, real: str) -> None:
    assert page([gather(audited)], blurred=True) == real


def test_the_maps_curves_are_drawn_and_end_at_the_patchs_own_facts(
    audited: Path, real: str
) -> None:
    found = gather(audited)
    curves, facts = found.patch["curves"], found.patch["facts"]
    assert [p["strength"] for p in curves["strength"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    none, full = curves["strength"][0], curves["strength"][-1]
    assert none["certificate"] == pytest.approx(0, abs=1e-6)
    assert full["certificate"] == pytest.approx(facts["certificate"]["min"], rel=1e-3)
    assert full["drift"] == pytest.approx(facts["drift"], rel=1e-3)
    by_norm = sorted(curves["recovery"], key=lambda p: p["norm"])
    assert by_norm[0]["residual"] > by_norm[-1]["residual"]
    drawn = [svg["aria-label"] or "" for svg in Page(real).all("svg") if "aria-label" in svg]
    assert sum("at strength 0.5 certificate" in told for told in drawn) == 1
    assert sum("At the norm of real text" in told for told in drawn) == 1

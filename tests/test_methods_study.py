"""The study of all methods: what it asks, its distances, going on after a kill, its tables."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from efface import phrases
from efface.detectors.judge import reporting
from recipes.emoji.world import STYLES
from studies.methods import SHORT, Size, Study, settings, todo
from studies.methods_asked import (
    AKA,
    BASE,
    FIFTY,
    OTHERS,
    PARAPHRASES,
    TARGETS,
    TEN,
    TUNED_ON,
    TUNED_STYLES,
    pictures,
)
from studies.methods_table import publish_table, read, tables
from studies.picture_change import of_features, of_pixels

ROOT = Path(__file__).parents[1]
TINY = Size(count=1, others=2, steps=2)


def test_nothing_erased_was_tuned_on_or_is_among_what_must_stay() -> None:
    for target in TARGETS:
        assert not {*target.gone} & {*TUNED_ON, *TUNED_STYLES}
        assert not {*target.gone} & {*OTHERS, *target.near}
        assert not {*target.near} & {*OTHERS}
    assert (len(set(TEN)), len(set(FIFTY)), len(set(OTHERS))) == (10, 50, 24)
    fits = {*phrases.PHRASINGS, phrases.OTHER_PHRASING, *phrases.UNUSUAL}
    assert not fits & {*PARAPHRASES}


def test_pictures_are_what_the_judge_can_tell_and_as_many_as_asked() -> None:
    known = reporting().groups
    for target in TARGETS:
        parts = pictures(target, 8, 24, 0)
        for part, some in parts.items():
            assert {p.name for p in some} <= {*known[some[0].group]}, part
            assert len({p.seed for p in some}) == len(some)
        assert {p.name for p in parts["plain"]} == {*target.gone}
        assert len(parts["plain"]) == len(parts["paraphrases"]) == max(8, len(target.gone))
        assert {p.name for p in parts["near"]} == {*target.near}
        assert {p.name for p in parts["styles"]} == {*STYLES} - {*target.gone, *target.near}
        for p in parts.get("synonyms", []):
            assert p.prompt.removeprefix("a ") in AKA[p.name]
    again = pictures(TARGETS[0], 8, 24, 1)["things"]
    assert not {p.seed for p in again} & {p.seed for p in pictures(TARGETS[0], 8, 24, 0)["things"]}


def test_only_methods_that_claim_it_are_asked_for_many() -> None:
    asked = list(todo(["uce", "sld"], [t.name for t in TARGETS]))
    assert {m for m, t in asked if t.kind == "fifty things"} == {"uce"}
    assert {m for m, t in asked if t.kind == "objects"} == {"uce", "sld"}


def test_distances_grow_with_the_change() -> None:
    rng, judge = np.random.default_rng(0), reporting()
    plain = rng.integers(60, 190, (64, 64, 3))
    noise = rng.normal(size=(64, 64, 3))
    one, near, far = (
        [Image.fromarray((plain + size * noise).clip(0, 255).astype("uint8"))]
        for size in (0, 4, 40)
    )
    black, white = ([Image.new("RGB", (64, 64), c)] for c in ("black", "white"))
    assert of_pixels(black, white) == [1.0]
    assert of_features(judge, one, one) == of_pixels(one, one) == [0.0]
    assert of_pixels(one, near) < of_pixels(one, far)
    assert [0.0] < of_features(judge, one, near) < of_features(judge, one, far)
    assert np.allclose(of_features(judge, one, far), of_features(judge, far, one))
    both = of_features(judge, one + one, near + far)
    assert np.allclose(
        both, of_features(judge, one, near) + of_features(judge, one, far), atol=1e-6
    )


def test_the_distance_is_that_of_places_brought_to_length_one() -> None:
    """Place by place, layer by layer."""
    rng, judge = np.random.default_rng(1), reporting()
    one, other = (Image.fromarray(rng.integers(0, 256, (64, 64, 3), "uint8")) for _ in "ab")
    with torch.no_grad():
        rows = torch.from_numpy(np.stack([np.asarray(p) for p in (one, other)]))
        pixels = rows.permute(0, 3, 1, 2) / 127.5 - 1
        layers = judge.model(pixels, output_hidden_states=True).hidden_states
    apart = []
    for a, b in layers:
        columns = zip(a.flatten(1).T.double(), b.flatten(1).T.double(), strict=True)
        apart.append(np.mean([((x / x.norm() - y / y.norm()) ** 2).sum() for x, y in columns]))
    assert of_features(judge, [one], [other])[0] == pytest.approx(np.mean(apart), rel=1e-4)


def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    out, folder = tmp_path / "claims" / "methods.jsonl", tmp_path / "runs"
    command = [sys.executable, "-m", "studies.methods", f"--out={out}", f"--folder={folder}"]
    small = [f"--{k}={getattr(TINY, k)}" for k in ("count", "others", "steps")]
    process = subprocess.Popen(
        [*command, *small, "--targets", "cat", "--methods", "negative", "uce"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 1200
    while process.poll() is None and time.monotonic() < until:
        if out.exists() and out.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = out.read_bytes()
    assert [json.loads(line)["asked"]["method"] for line in done.splitlines()] == [
        "base",
        "negative",
    ]
    out.write_bytes(done + b'{"asked": {"meth')  # as a kill in the middle of a line leaves it
    drawn = {p: p.stat().st_mtime_ns for p in (folder / "base").iterdir()}

    study = Study(out, folder, TINY)
    study.yardstick(0)
    study.run(list(todo(["negative", "uce"], ["cat"])), 0)
    lines = out.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:2]) == done
    assert len(lines) == 3
    assert {p: p.stat().st_mtime_ns for p in (folder / "base").iterdir()} == drawn
    cell = json.loads(lines[2])
    assert cell["asked"]["settings"] == json.loads(json.dumps(settings("uce")))
    assert cell["fit"]["settings"]["name"] == "uce"
    assert cell["fit"]["CPU seconds"] > 0
    assert 100 < cell["fit"]["peak MB"] < 4000
    assert len(cell["parts"]["things"]["after"]) == TINY.others
    kept = {p.name[:SHORT] for p in (folder / "pictures").iterdir()}
    assert {n for part in cell["parts"].values() for n in part["pictures"]} <= kept
    assert min(cell["moved"]["things"]["pixels"]) >= 0
    other = json.loads(lines[1])["parts"]["plain"]
    assert other["before"] == cell["parts"]["plain"]["before"]
    assert other["pictures"] != cell["parts"]["plain"]["pictures"]
    for error, final in (("MemoryError", False), ("efface.core.EffaceError: it has none", True)):
        study.rows.write([{"asked": {"method": error}, "error": error}])
        assert study.done({"method": error}) is final


def a_cell(method: str, target: str, seed: int = 0, **found: Any) -> dict[str, Any]:
    """A line, with nothing asked but what tables read."""
    asked = {"method": method, "target": target, "seed": seed, "settings": {"default": {}}}
    return {"asked": asked | {"steps": 20, "guidance": 5.0, "others": 4}, **found}


def measured(after: list[str], far: float, seconds: float) -> dict[str, Any]:
    part = {"wanted": ["cat"] * 4, "before": ["cat"] * 4, "after": after, "pictures": []}
    return {
        "fit": {"CPU seconds": seconds, "wall seconds": 9.0, "peak MB": 400, "bytes": 2_000_000},
        "parts": {"plain": part},
        "moved": {"things": {"features": [far, far], "pixels": [0.0, 0.0]}},
    }


def test_tables_count_what_the_lines_say(tmp_path: Path) -> None:
    yard = {"things": {"features": [0.5, 0.5], "pixels": [0.1, 0.1]}}
    cells = [
        a_cell(*BASE, moved=yard),
        a_cell("uce", "cat", **measured(["dog"] * 4, 0.9, 30.0)),
        a_cell("uce", "cat", **measured(["dog", "dog", "dog", "cat"], 0.1, 2.0)),  # the newer
        a_cell("uce", "car", **measured(["dog"] * 4, 0.1, 4.0)),
        a_cell("uce", "car", 1, **measured(["dog"] * 4, 0.1, 3.0)),
        a_cell("rece", "cat", error="EffaceError: no"),
    ]
    path, page = tmp_path / "methods.jsonl", tmp_path / "page.md"
    path.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    page.write_text("top\n<!-- methods -->\nold\n<!-- /methods -->\nend\n")
    publish_table(path, page, ["uce", "rece", "sld"])
    text = page.read_text()
    assert text.startswith("top")
    assert "old" not in text
    row = next(line for line in text.splitlines() if line.startswith("| `uce` | 3 |"))
    assert "| 100 → 8 % (1–35) of 12 | – |" in row  # Wilson's interval of 1 in 12
    assert "| 20 % (20–20) of 6 | 0 % (0–0) of 6 |" in row
    assert "| `uce` | 3.0 (2.0–4.0) of 3 | – | – | 9.0 (9.0–9.0) of 3 | 400 " in text
    assert "- `rece` failed on cat: EffaceError: no" in text
    assert "- not measured yet on cat: `sld`\n" in text
    assert "- not measured yet on car: `rece`, `sld`\n" in text
    assert "- not measured yet on ten things, fifty things: `uce`, `rece`\n" in text


def test_new_settings_supersede_old_cells(tmp_path: Path) -> None:
    old = a_cell("uce", "cat", **measured(["cat"] * 4, 0.1, 2.0))
    new = a_cell("uce", "car", **measured(["dog"] * 4, 0.1, 2.0))
    new["asked"]["settings"] = {"default": {"ridge": 2}}
    yard = a_cell(*BASE, moved={"things": {"features": [1.0, 1.0], "pixels": [1.0, 1.0]}})
    path = tmp_path / "methods.jsonl"
    path.write_text("".join(json.dumps(cell) + "\n" for cell in (yard, old, new)))
    assert [c["asked"]["target"] for c in read(path)] == [BASE[1], "car"]
    assert "- not measured yet on cat" in tables(read(path), ["uce"])


def test_the_page_shows_the_committed_lines() -> None:
    shown = (ROOT / "docs" / "methods.md").read_text()
    counted, _, _ = tables(read(ROOT / "claims" / "methods.jsonl"), []).partition("**Missing**")
    assert counted in shown

"""A run's folder: what it refuses, what it mends, and that a run killed anywhere ends the same."""

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

from efface.core import Case, EffaceError, Row, Verdict, quiet
from efface.store import open_store, read, seconds

ASKED = {"efface": "1", "base": "aa", "erased": "bb", "count": 3}


def row(i: int) -> Row:
    case = Case("a cat", i, size=(16, 8))
    return Row(case, case, 0, None, Verdict(i / 7, False, {"cat": 1 / 3}), "no picture", "none")


def test_rows_survive_the_disk(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", ASKED) as store:
        store.rows.append([row(0), row(1)])
        store.rows.append([row(2)])
    found = read(tmp_path / "run")
    assert [r.root.seed for r in found.rows] == [0, 1, 2]
    assert found.rows[1].root == row(1).root
    assert found.rows[1].verdict == Verdict(0.142857, False, {"cat": 0.333333})
    assert found.base == []


def test_rows_have_the_promised_fields(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", ASKED) as store:
        store.rows.append([row(0)])
    [told] = [json.loads(line) for line in (tmp_path / "run/rows.jsonl").read_text().splitlines()]
    assert list(told) == ["root", "case", "step", "image", "verdict", "error", "attack"]
    assert list(told["verdict"]) == ["score", "hit", "labels"]


@pytest.mark.parametrize("torn", [1, 50, 200])
def test_half_a_line_is_cut_off(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "run/rows.jsonl"
    with open_store(tmp_path / "run", ASKED) as store:
        store.rows.append([row(0), row(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    with open_store(tmp_path / "run", ASKED) as store:
        assert [r.root.seed for r in store.rows] == [0]
        store.rows.append([row(1)])
    assert path.read_bytes() == whole


def test_a_run_that_is_being_written_can_be_read(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", ASKED) as store:
        store.rows.append([row(0), row(1)])
        store.note({"attack": "none", "seconds": 1.5})
        store.note({"attack": "seeds", "seconds": 2.0})
        whole = store.rows.path.read_bytes()
        store.rows.path.write_bytes(whole[:-5])
        assert [r.root.seed for r in read(tmp_path / "run").rows] == [0]
    assert seconds(tmp_path / "run") == 3.5


def test_only_half_a_line_leaves_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", ASKED):
        (tmp_path / "run/rows.jsonl").write_text('{"root"')
    with open_store(tmp_path / "run", ASKED) as store:
        assert list(store.rows) == []


def test_second_audit_is_refused(tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "run", ASKED),
        pytest.raises(EffaceError, match=r"another audit.*wait for it, or name another"),
    ):
        open_store(tmp_path / "run", ASKED)
    with open_store(tmp_path / "run", ASKED):
        pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"efface": "2"}, "begun with efface 1, not 2: finish it with that version"),
        ({"base": "cc"}, "begun with base aa, not cc: finish it with that model"),
        ({"erased": "cc"}, "finish it with that patch or model, or name a new folder"),
        ({"count": 4}, "begun with count 3, not 4: ask for the same again, or name a new"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with open_store(tmp_path / "run", ASKED):
        pass
    before = (tmp_path / "run/run.json").read_bytes()
    with pytest.raises(EffaceError, match=words):
        open_store(tmp_path / "run", ASKED | change)
    assert (tmp_path / "run/run.json").read_bytes() == before


def test_other_format_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", ASKED):
        pass
    told = json.loads((tmp_path / "run/run.json").read_text()) | {"format": 99}
    (tmp_path / "run/run.json").write_text(json.dumps(told))
    for use in (lambda: open_store(tmp_path / "run", ASKED), lambda: read(tmp_path / "run")):
        with pytest.raises(EffaceError, match="another version of efface"):
            use()


def test_strange_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder, words in (
        (tmp_path, "holds other files"),
        (tmp_path / "notes.txt", "is a file"),
        (tmp_path / "no/such", "create it first"),
    ):
        with pytest.raises(EffaceError, match=words):
            open_store(folder, ASKED)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(EffaceError, match="is no run"):
        read(tmp_path)


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", ASKED) as store:
        store.rows.append([row(0)])
        store.rows.path.write_bytes(b"{}}\n" + store.rows.path.read_bytes())
        with pytest.raises(EffaceError, match=r"rows.jsonl, line 1, is not JSON"):
            list(store.rows.told())


def striped(pictures: Sequence[Image]) -> list[Verdict]:
    """A verdict that depends on the picture's every pixel, and hits about one in eight."""
    sums = [int(np.asarray(p).astype(int).sum()) for p in pictures]
    return [Verdict(s / 1e6, s % 8 == 0, {"sum": float(s)}) for s in sums]


def audit(patch: str, folder: str) -> None:
    """A small run; called in a process of its own."""
    from efface import attacks
    from efface.backbones.model import open_pipeline
    from efface.backbones.pipeline import apply
    from efface.core import Concept
    from efface.patch import load
    from efface.run import Scene, drive
    from tests.loaded import PIPE

    erased, base = (open_pipeline(p, frozen=True) for p in (apply(PIPE, load(patch)), PIPE))
    roots = [(Case(f"a cat {i}", seed=i, steps=2), striped) for i in range(6)]
    with open_store(Path(folder), ASKED) as store:
        scene = Scene(erased, base, Concept("cat", ("cat",)), store, batch=4)
        drive(scene, "none", attacks.build("none"), roots, quiet, base=True)
        for name, k in (("seeds", 5), ("more", 3)):
            drive(scene, name, attacks.build("seeds", k=k), roots, quiet)


@pytest.fixture
def spawn(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A process forked from one that has the model loaded already."""
    monkeypatch.setenv("EFFACE_TEST_MODEL", str(tiny))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["efface.run", "efface.attacks.seeds", "tests.loaded"])

    def start(*arguments: object) -> Any:
        process = context.Process(target=audit, args=tuple(map(str, arguments)))
        process.start()
        return process

    return start


def contents(folder: Path) -> dict[str, bytes]:
    names = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("lock", "run.json")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in names}


def written(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*.jsonl"))


@pytest.mark.timeout(1200)  # 22 processes; a busy machine starts them slowly
def test_killed_twenty_times_it_ends_the_same(
    tiny_patch: Path, tmp_path: Path, spawn: Callable[..., Any]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = spawn(tiny_patch, whole)
    process.join()
    assert process.exitcode == 0
    rng = random.Random(0)
    for length in sorted(rng.randrange(written(whole)) for _ in range(20)):
        process = spawn(tiny_patch, killed)
        while process.is_alive() and written(killed) < length:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode in (0, -9)
    process = spawn(tiny_patch, killed)
    process.join()
    assert process.exitcode == 0
    assert len(read(whole).rows) > 12
    assert contents(killed) == contents(whole)

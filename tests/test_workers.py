"""Where pieces of work run: the same answers in turn and in processes, and what ends whom."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from efface.core import EffaceError, OnStep
from efface.workers import Lost, in_processes, in_turn

LONG = 120.0


def unseen(what: str, step: int, of: int) -> None: ...


def nothing() -> None: ...


def squared(piece: int, on_step: OnStep) -> int:
    on_step("squaring", 0, 1)
    return piece * piece


def told(piece: int, on_step: OnStep) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def killed_at_two(piece: int, on_step: OnStep) -> int:
    if piece == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def refused_at_two(piece: Path | int, on_step: OnStep) -> None:
    if piece == 2:
        raise EffaceError("there is no two")
    if isinstance(piece, Path):
        works_long(piece, on_step)


def defect(piece: int, on_step: OnStep) -> None:
    raise ZeroDivisionError


def works_long(piece: Path, on_step: OnStep) -> None:
    """Says that it began and holds a file until it ends, whatever ends it."""
    held = piece.with_suffix(".held")
    held.touch()
    try:
        piece.write_text(str(os.getpid()))
        time.sleep(LONG)
    finally:
        held.unlink()


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def begun(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def gone(path: Path) -> bool:
    try:
        os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_the_same_as_in_turn() -> None:
    pieces, wanted = [3, 1, 4], [9, 1, 16]
    steps = list[str]()
    whole = list(in_turn(squared, pieces, lambda what, step, of: steps.append(what)))
    assert whole == list(enumerate(wanted))
    assert steps == ["squaring"] * 3
    assert sorted(in_processes(2, nothing)(squared, pieces, unseen)) == whole


def test_a_process_a_piece_and_threads_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    found = [tuple(one) for _, one in in_processes(2, nothing)(told, [1, 2, 3], unseen)]
    assert len({os.getpid(), *(pid for pid, _ in found)}) == 4
    assert [threads for _, threads in found] == ["3"] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    [(_, one)] = in_processes(1, nothing)(told, [1], unseen)
    assert tuple(one)[1] == "2", "what the user chose is left alone"


def test_a_worker_that_dies_is_lost_alone() -> None:
    found = dict(in_processes(2, nothing)(killed_at_two, [1, 2, 3], unseen))
    assert (found[0], found[2]) == (1, 3)
    lost = found[1]
    assert isinstance(lost, Lost)
    assert "exit code -9" in lost.reason


def test_what_work_raises_is_raised_and_ends_the_others(tmp_path: Path) -> None:
    path = tmp_path / "begun"

    def both() -> None:
        pieces: list[Path | int] = [path, 1, 2]
        for i, _ in in_processes(2, nothing)(refused_at_two, pieces, unseen):
            assert i == 1
            until(lambda: begun(path))

    with pytest.raises(EffaceError) as refused:
        both()
    assert str(refused.value) == "there is no two"
    assert gone(path)
    assert not path.with_suffix(".held").exists()
    with pytest.raises(ZeroDivisionError) as failed:
        list(in_processes(2, nothing)(defect, [1], unseen))
    assert "in defect" in failed.value.__notes__[0], "where in the worker it was"


def test_closed_it_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    pieces: list[Path | int] = [one, 2, two, three]
    with closing(in_processes(2, nothing)(killed_or_long, pieces, unseen)) as found:
        assert isinstance(next(found)[1], Lost)
        until(lambda: begun(one))
    assert gone(one)
    assert not one.with_suffix(".held").exists(), "it was let finish what must be whole"
    assert not three.exists()


def killed_or_long(piece: Path | int, on_step: OnStep) -> None:
    if isinstance(piece, int):
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        works_long(piece, on_step)


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    code = (
        "import sys; from pathlib import Path; from efface.workers import in_processes\n"
        "from tests.test_workers import nothing, unseen, works_long\n"
        "list(in_processes(2, nothing)(works_long, [Path(p) for p in sys.argv[1:]], unseen))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, *map(str, paths)])
    until(lambda: all(begun(path) for path in paths))
    assert parent.poll() is None
    parent.kill()
    parent.wait()
    until(lambda: all(gone(path) for path in paths))

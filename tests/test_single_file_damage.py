"""Single files whose header lies: refused in a sentence, with no memory for what they claim."""

import json
import os
import re
import resource
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.backbones.single_file import SingleFile
from efface.backbones.tensor_file import HEADER_LIMIT, TensorFile
from efface.core import EffaceError
from tests.test_single_file import KEY, tiny_unet, written

ALLOWED = 256 << 20
"""Bytes of address space that a refusal may take."""


@contextmanager
def little_memory() -> Iterator[None]:
    """Let this process grow by no more than ALLOWED."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ALLOWED, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def lying(folder: Path, header: bytes, data: bytes = b"", claimed: int | None = None) -> Path:
    path = folder / "model.safetensors"
    length = len(header) if claimed is None else claimed
    path.write_bytes(struct.pack("<Q", length) + header + data)
    return path


def one(dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return json.dumps({KEY: entry}).encode()


def test_the_honest_file_is_read(tmp_path: Path) -> None:
    path = lying(tmp_path, one(), struct.pack("<4f", 1, 2, 3, 4))
    with little_memory():
        assert SingleFile(path).tensor(KEY).tolist() == [[1, 2], [3, 4]]


def test_the_limit_on_memory_works() -> None:
    with little_memory(), pytest.raises(RuntimeError, match="alloc"):
        torch.empty(2 * ALLOWED, dtype=torch.uint8)


HUGE = 1 << 40
LIES: dict[str, tuple[bytes, bytes, int | None]] = {
    "offsets beyond the file": (one(offsets=(0, 64), shape=(4, 4)), b"\0" * 16, None),
    "huge offsets": (one(offsets=(0, 4 * HUGE), shape=(HUGE,)), b"\0" * 16, None),
    "overflowing shape": (one(shape=(HUGE, HUGE)), b"\0" * 16, None),
    "overflowing offsets": (one(offsets=(0, 2**64), shape=(2**62,)), b"\0" * 16, None),
    "offsets backwards": (one(offsets=(16, 0)), b"\0" * 16, None),
    "negative offsets": (one(offsets=(-16, 0)), b"\0" * 16, None),
    "negative shape": (one(shape=(-2, -2)), b"\0" * 16, None),
    "larger shape": (one(shape=(4, 4)), b"\0" * 16, None),
    "smaller shape": (one(shape=(1, 2)), b"\0" * 16, None),
    "other dtype": (one(dtype="F64"), b"\0" * 16, None),
    "unknown dtype": (one(dtype="F17"), b"\0" * 16, None),
    "no shape": (one(shape=None), b"\0" * 16, None),
    "a hole": (one(offsets=(16, 32)), b"\0" * 32, None),
    "bytes left over": (one(), b"\0" * 64, None),
    "bytes missing": (one(), b"\0" * 8, None),
    "huge header": (one(), b"\0" * 16, 1 << 62),
    "all-ones header": (one(), b"\0" * 16, (1 << 64) - 1),
    "header into the data": (one(), b"\0" * 16, len(one()) + 8),
    "header cut": (one(), b"\0" * 16, len(one()) - 8),
    "no header": (b"", b"", 0),
    "not JSON": (b"{" * 100, b"", None),
    "not UTF-8": (b"\xff" * 100, b"", None),
    "a list": (b"[]", b"", None),
    "deep": (b"[" * 100_000, b"", None),
    "a name twice": (one()[:-1] + b", " + one(offsets=(0, HUGE))[1:], b"\0" * 16, None),
    "a pickle": (b"\x80\x02}q\x00.", b"", 0x00710A7D0280),
}


@pytest.mark.parametrize(("header", "data", "claimed"), LIES.values(), ids=list(LIES))
def test_lies(tmp_path: Path, header: bytes, data: bytes, claimed: int | None) -> None:
    path = lying(tmp_path, header, data, claimed)
    with little_memory(), pytest.raises(EffaceError, match=f"^{re.escape(str(path))} ") as told:
        SingleFile(path)
    said = str(told.value)
    assert "truncated or not safetensors" in said
    assert said.endswith("download it again")
    assert len(said.splitlines()) == 1
    assert len(said) < 250 + len(str(path))


@pytest.mark.parametrize("size", range(9))
def test_stubs(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\0" * size)
    with pytest.raises(EffaceError, match="truncated or not safetensors"):
        SingleFile(path)


def entries(count: int) -> bytes:
    named = (
        f'"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(count)
    )
    return f"{{{','.join(named)}}}".encode()


def test_a_million_tensors(tmp_path: Path) -> None:
    path = lying(tmp_path, entries(1_000_000), b"\0" * 1_000_000)
    start = time.process_time()
    with little_memory(), pytest.raises(EffaceError, match=f"of at most {HEADER_LIMIT}"):
        SingleFile(path)
    assert time.process_time() - start < 1


def test_many_tensors(tmp_path: Path) -> None:
    path = lying(tmp_path, entries(70_000), b"\0" * 70_000)
    with pytest.raises(EffaceError, match="names 70000 tensors of at most 65536"):
        SingleFile(path)


def test_a_long_story_is_no_lie(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tiny_unet("sd1"), path, {"modelspec.thumbnail": "x" * (1 << 20)})
    assert SingleFile(path).kind == "sd1"


def test_cut_short(tmp_path: Path) -> None:
    path = written(tiny_unet("sd1"), tmp_path)
    whole = path.read_bytes()
    for part in (0.001, 0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(EffaceError, match=f"^{path} is truncated"):
            SingleFile(path)


def test_changed_after_it_was_opened(tmp_path: Path) -> None:
    path = written(tiny_unet("sd1"), tmp_path)
    os.utime(path, (0, 0))
    file = SingleFile(path)
    tensors = load_file(path)
    for change in (torch.ones(3, 3), tensors[KEY].half(), tensors[KEY] + 1, None):
        other = {n: t for n, t in tensors.items() if n != KEY}
        save_file(other if change is None else other | {KEY: change}, path)
        with pytest.raises(EffaceError, match=f"{path} changed while it was read"):
            file.tensor(KEY)
    path.unlink()
    with pytest.raises(EffaceError, match=f"^{path}"):
        file.tensor(KEY)


def test_a_name_too_long() -> None:
    with pytest.raises(EffaceError, match="no file 'xxx"):
        SingleFile(f"{'x' * 300}.safetensors")


def test_unknown_tensor(tmp_path: Path) -> None:
    with pytest.raises(EffaceError, match="has no tensor 'nothing'"):
        SingleFile(written(tiny_unet("sd1"), tmp_path)).tensor("nothing")


def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    """A terabyte, for the file is sparse: its header is honest, and only what is asked is read."""
    size = 1 << 40
    header = json.dumps(
        {
            KEY: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            "rest": {"dtype": "U8", "shape": [size], "data_offsets": [16, 16 + size]},
        }
    ).encode()
    path = lying(tmp_path, header, struct.pack("<4f", 1, 2, 3, 4))
    try:
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + 16 + size)
    except OSError:
        pytest.skip("this file system has no sparse files of a terabyte")
    assert SingleFile(path).tensor(KEY).tolist() == [[1, 2], [3, 4]]


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = TensorFile.read

    def noting(self: TensorFile, name: str) -> Any:
        opened.append(name)
        return real(self, name)

    monkeypatch.setattr(TensorFile, "read", noting)
    file = SingleFile(written(tiny_unet("sd1"), tmp_path))
    wanted = next(iter(file.readers().values()))
    assert (file.kind, opened) == ("sd1", [])
    file.tensor(wanted)
    assert opened == [wanted]

"""Patch files that lie, end early or belong elsewhere: one clear sentence, exit code 2."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface.core import Edit, PromptMap
from efface.patch import Patch, checksum
from tests.tiny import build_tiny

Cli = Callable[..., Any]


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def raw(header: bytes, data: bytes = b"", claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


def with_story(path: Path, change: Callable[[dict[str, Any]], object], **tensors: Any) -> None:
    """The patch at `path` with another story, or other tensors."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    story = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["efface"])
    change(story)
    told, held = json.dumps(story), {**load_file(path), **tensors}
    save_file(held, path, {"efface": told, "sha256": checksum(told, held)})


def kept(story: dict[str, Any]) -> None:
    """The story as it was."""


TENSOR = b'{"dtype":"F32","shape":[%s],"data_offsets":[%s]}'
HARMS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
    "truncated": shorten,
    "no safetensors": lambda p: p.write_bytes(b"PK\x03\x04" * 100),
    "other safetensors": lambda p: save_file({"w": torch.zeros(2)}, p),
    "huge header": lambda p: p.write_bytes(raw(b"{}", claimed=2**62)),
    "long header": lambda p: p.write_bytes(raw(b" " * 3_000_000)),
    "negative offsets": lambda p: p.write_bytes(raw(b'{"a":' + TENSOR % (b"1", b"-4,0") + b"}")),
    "huge tensor": lambda p: p.write_bytes(
        raw(b'{"a":' + TENSOR % (b"1099511627776", b"0,4398046511104") + b"}", b"0" * 4)
    ),
    "overflow": lambda p: p.write_bytes(
        raw(
            b'{"a":' + TENSOR % (b"9223372036854775807,9223372036854775807", b"0,4") + b"}", b"0000"
        )
    ),
    "deep header": lambda p: p.write_bytes(raw(b'{"a":' * 100_000)),
    "another bit": lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x00"),
    "deep story": lambda p: save_file({"a": torch.zeros(1)}, p, {"efface": "[" * 100_000}),
    "story no object": lambda p: save_file({"a": torch.zeros(1)}, p, {"efface": "3"}),
    "story nan": lambda p: save_file({"a": torch.zeros(1)}, p, {"efface": '{"format": NaN}'}),
    "newer format": lambda p: with_story(p, lambda s: s.update(format=99)),
    "concept no phrases": lambda p: with_story(p, lambda s: s["concept"].update(erase="cat")),
    "concept empty": lambda p: with_story(p, lambda s: s["concept"].update(erase=[])),
    "maps no list": lambda p: with_story(p, lambda s: s.update(maps={"a": 1})),
    "maps without tensors": lambda p: with_story(p, lambda s: s.update(maps=["text", "text"])),
    "edit without tensors": lambda p: with_story(p, lambda s: s.update(edits=[["x", "add"]])),
    "edit of odd op": lambda p: with_story(p, lambda s: s.update(edits=[["x", "eval"]])),
    "foreign tensor": lambda p: with_story(p, kept, other=torch.zeros(3)),
    "nan": lambda p: with_story(p, kept, **{"maps.0.a": torch.full((32, 1), torch.nan)}),
    "infinite": lambda p: with_story(p, kept, **{"maps.0.a": torch.full((32, 1), torch.inf)}),
    "integers": lambda p: with_story(p, kept, **{"maps.0.a": torch.ones(32, 1, dtype=torch.int)}),
    "unequal shapes": lambda p: with_story(p, kept, **{"maps.0.a": torch.zeros(32, 1)}),
    "vector": lambda p: with_story(p, kept, **{"maps.0.a": torch.zeros(32)}),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_damaged_patch(
    refused: Callable[..., str],
    tiny_patch: Path,
    tmp_path: Path,
    harm: Callable[[Path], object],
) -> None:
    path = tmp_path / "p.safetensors"
    shutil.copyfile(tiny_patch, path)
    harm(path)
    assert str(path) in refused("info", path)


def test_story_cannot_drive_the_terminal(cli: Cli, tiny_patch: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    shutil.copyfile(tiny_patch, path)
    with_story(path, lambda s: s["concept"].update(erase=["\x1b[2Jcat [red]x[/red]\r"]))
    done = cli("info", path)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "[red]x[/red]" in done.out


def wrong(patch: Patch, **changes: Any) -> Patch:
    return Patch(patch.concept, patch.eraser, patch.base, **changes)


@pytest.mark.parametrize("command", ["draw", "export"])
@pytest.mark.parametrize("kind", ["base", "width", "stream", "tensor", "shape"])
def test_patch_that_does_not_fit(
    refused: Callable[..., str],
    tiny: Path,
    tiny_patch: Path,
    tmp_path: Path,
    command: str,
    kind: str,
) -> None:
    patch, path = efface.load(tiny_patch), tmp_path / "p.safetensors"
    zeros = torch.zeros(31, 2)
    reader = "unet/mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    model = build_tiny(tmp_path / "other", seed=1) if kind == "base" else tiny
    changes: dict[str, Any] = {
        "base": {"maps": patch.maps},
        "width": {"maps": (PromptMap("text", zeros, zeros),)},
        "stream": {"maps": (PromptMap("t5", zeros, zeros),)},
        "tensor": {"edits": (Edit("unet/nothing.weight", "add", zeros),)},
        "shape": {"edits": (Edit(reader, "add", zeros),)},
    }
    wrong(patch, **changes[kind]).save(path)
    words: list[object] = [path] if command == "export" else ["cat", "--patch", path]
    told = refused(command, model, *words, "-o", "OUT/x")
    assert {"base": "fitted on base", "width": "31", "stream": "'t5'"}.get(kind, "edits") in told

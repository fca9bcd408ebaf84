"""A damaged or hostile patch file ends in one sentence that names it, never in a traceback."""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from efface.core import EffaceError
from efface.patch import HEADER_LIMIT, Patch, checksum, load, stack
from tests.equal import contents
from tests.test_patch import ADD, MUL, edited, mapped

WHOLE = stack([mapped(0), edited(ADD, MUL)])
Story = dict[str, Any]
Tensors = dict[str, Tensor]


def parts() -> tuple[Story, Tensors]:
    """A patch's story and tensors, to be tampered with."""
    data = WHOLE.to_bytes()
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length])["__metadata__"]["efface"]
    m, (e, f) = WHOLE.maps[0], WHOLE.edits
    assert e.b is not None
    held = {"maps.0.a": m.a, "maps.0.b": m.b, "edits.0.a": e.a, "edits.0.b": e.b, "edits.1.a": f.a}
    return json.loads(told), held


def forged(told: str, tensors: Tensors) -> bytes:
    """A file with a right checksum, so that only what was tampered with can be refused."""
    return save(tensors, {"efface": told, "sha256": checksum(told, tensors)})


def refusal(data: bytes, folder: Path) -> str:
    path = folder / "p.safetensors"
    path.write_bytes(data)
    with pytest.raises(EffaceError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_forging_nothing_is_read(tmp_path: Path) -> None:
    told, tensors = parts()
    path = tmp_path / "p.safetensors"
    path.write_bytes(forged(json.dumps(told), tensors))
    assert contents(load(path)) == contents(WHOLE)
    path.write_bytes(save(tensors, {"efface": json.dumps(told)}))  # made by hand
    assert contents(load(path)) == contents(WHOLE)
    path.write_bytes(save(tensors, {"efface": json.dumps(told), "sha257": "0"}))  # its key damaged
    with pytest.raises(EffaceError, match="checksum"):
        load(path)


STORIES: dict[str, tuple[Callable[[Story], object], str]] = {
    "format 0": (lambda s: s.update(format=0), "format 0"),
    "format 2": (lambda s: s.update(format=2), "format 2"),
    "format true": (lambda s: s.update(format=True), "no format number"),
    "format text": (lambda s: s.update(format="1"), "no format number"),
    "no format": (lambda s: s.pop("format"), "no format number"),
    "no concept": (lambda s: s.pop("concept"), "'concept' is not a dict"),
    "concept list": (lambda s: s.update(concept=["cat"]), "'concept' is not a dict"),
    "erase text": (lambda s: s["concept"].update(erase="cat"), "'erase' is not a list"),
    "erase empty": (lambda s: s["concept"].update(erase=[]), "nothing to erase"),
    "toward numbers": (lambda s: s["concept"].update(toward=[1]), "'toward' is not a list"),
    "name missing": (lambda s: s["concept"].pop("name"), "no name"),
    "keep erased": (lambda s: s["concept"].update(keep=["cat"]), "both erased and kept"),
    "base number": (lambda s: s.update(base=3), "'base' is not a str"),
    "strength text": (lambda s: s["eraser"].update(strength="x"), "'strength' is not a number"),
    "a map more": (lambda s: s["maps"].append("text"), "maps.1"),
    "a map less": (lambda s: s["maps"].pop(), "maps.0.a.*not told of"),
    "map of number": (lambda s: s.update(maps=[1]), "maps.0"),
    "an edit more": (lambda s: s["edits"].append(["x", "add"]), "edits.2"),
    "an edit less": (lambda s: s["edits"].pop(), "edits.1.a.*not told of"),
    "edit of odd op": (lambda s: s["edits"][0].__setitem__(1, "eval"), "edits.0 names no tensor"),
    "edit of wrong op": (lambda s: s["edits"][0].__setitem__(1, "mul"), "edits.0 has not"),
    "facts list": (lambda s: s.update(facts=[]), "'facts' is not a dict"),
    "half a character": (lambda s: s.update(base="\ud800"), "not JSON"),
    "nan": (lambda s: s["facts"].update(x=float("nan")), "not JSON"),
}


@pytest.mark.parametrize(("change", "reason"), STORIES.values(), ids=STORIES)
def test_story_that_contradicts_itself_or_the_tensors(
    change: Callable[[Story], object], reason: str, tmp_path: Path
) -> None:
    told, tensors = parts()
    change(told)
    found = refusal(forged(json.dumps(told), tensors), tmp_path)
    assert re.search(reason, found), found


TEXTS = {
    "empty": "",
    "not json": "concept: cat",
    "list": "[]",
    "deep list": "[" * 200_000,
    "deep object": '{"a":' * 200_000,
    "long number": '{"format": ' + "1" * 10_000 + "}",
    "beyond floats": '{"format": 1e999}',
}


@pytest.mark.parametrize("told", TEXTS.values(), ids=TEXTS)
def test_story_that_is_none(told: str, tmp_path: Path) -> None:
    refusal(forged(told, parts()[1]), tmp_path)


def test_number_beyond_floats_among_the_facts(tmp_path: Path) -> None:
    told, tensors = parts()
    told["facts"] = {"drift": 1.5}
    text = json.dumps(told).replace('"drift": 1.5', '"drift": 1e999')
    assert "not JSON" in refusal(forged(text, tensors), tmp_path)


HARMS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda t: t.fill_(torch.nan),
    "one infinity": lambda t: t.index_fill_(0, torch.tensor([0]), torch.inf),
    "integers": lambda t: t.long(),
    "booleans": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "eight bits": lambda t: t.to(torch.float8_e4m3fn),
    "vector": lambda t: t.flatten(),
    "scalar": lambda t: t.sum(),
    "row less": lambda t: t[1:],
    "column less": lambda t: t[:, 1:],
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
@pytest.mark.parametrize("name", ["maps.0.a", "maps.0.b"])
def test_tensors_that_are_no_patch(
    name: str, harm: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    told, tensors = parts()
    tensors[name] = harm(tensors[name].clone()).contiguous()
    assert name.rpartition(".")[0] in refusal(forged(json.dumps(told), tensors), tmp_path)


def test_foreign_and_missing_tensors(tmp_path: Path) -> None:
    told, tensors = parts()
    more = tensors | {"extra": torch.ones(1)}
    assert "'extra'" in refusal(forged(json.dumps(told), more), tmp_path)
    del tensors["edits.0.a"]
    assert "edits.0" in refusal(forged(json.dumps(told), tensors), tmp_path)


def test_every_truncation(tmp_path: Path) -> None:
    data = WHOLE.to_bytes()
    lengths = {*range(0, 40), *range(40, len(data), 97), len(data) - 1}
    for length in lengths:
        refusal(data[:length], tmp_path)
    refusal(data + b"\0", tmp_path)


FILES = {
    "text": b"a patch, honestly",
    "zeros": bytes(1000),
    "pickle": pickle.dumps({"weight": [1.0]}),
    "zip": b"PK\x03\x04" + bytes(1000),
    "other safetensors": save({"a": torch.ones(2)}),
    "other metadata": save({"a": torch.ones(2)}, {"format": "pt"}),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_other_files(data: bytes, tmp_path: Path) -> None:
    refusal(data, tmp_path)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / ("x" * 300), Path("/dev/zero")):
        with pytest.raises(EffaceError, match=str(path)):
            load(path)


def test_claims_cost_no_memory(tmp_path: Path) -> None:
    """A file of eight (sparse) gigabytes, and headers that claim more, are refused within 50 MB."""
    with (tmp_path / "sparse").open("wb") as file:
        file.write((8 << 30).to_bytes(8, "little"))
        file.truncate((8 << 30) + 8)
    for name, claim in (("huge", 2**63 - 1), ("over", HEADER_LIMIT + 1), ("limit", HEADER_LIMIT)):
        (tmp_path / name).write_bytes(claim.to_bytes(8, "little") + b'{"a":')
    shape = f'{{"a":{{"dtype":"F32","shape":[{2**40}],"data_offsets":[0,{2**42}]}}}}'.encode()
    (tmp_path / "tensor").write_bytes(len(shape).to_bytes(8, "little") + shape + bytes(64))
    code = """
import resource, sys
from efface.patch import EffaceError, load
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in sys.argv[1:]:
    try:
        load(path)
        print("read", path)
    except EffaceError:
        pass
print(peak() - before)
"""
    paths = sorted(map(str, tmp_path.iterdir()))
    out = subprocess.check_output([sys.executable, "-c", code, *paths], text=True)
    assert int(out) < 50_000  # kilobytes


DATA = WHOLE.to_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_is_seen(tmp_path: Path, data: st.DataObject) -> None:
    """Flipped bits, half of them in the header, and a cut: refused, or nothing was lost."""
    damaged = bytearray(DATA)
    header = 8 + int.from_bytes(DATA[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        end = header if data.draw(st.booleans()) else len(DATA)
        damaged[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(DATA)), st.integers(0, len(DATA))))
    path = tmp_path / "p.safetensors"
    path.write_bytes(damaged[:cut])
    try:
        found: Patch = load(path)
    except EffaceError:
        return
    assert contents(found) == contents(WHOLE)

"""The artifact's life: what is saved is what is loaded; scaling and stacking are exact algebra."""

import errno
import resource
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from efface.backbones.merge import Merge
from efface.backbones.readers import Reader
from efface.core import Concept, Edit, EffaceError, PromptMap
from efface.patch import Patch, load, stack
from tests.equal import contents

WIDTH = 6
NAMES = ("unet/k.weight", "unet/v.weight")
OTHER = "unet/out.weight"
BASE = "aaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def mapped(seed: int, name: str = "cat", base: str = BASE) -> Patch:
    maps = (PromptMap("text", noise(WIDTH, 2, seed=seed), noise(WIDTH, 2, seed=seed + 100)),)
    eraser = {"name": "uce", "ridge": 0.5, "rows": "all", "epochs": None}
    concept = Concept(name, (name, f"a {name}"), ("dog",), ("tree",))
    return Patch(concept, eraser, base, maps, facts={"drift": 1 / 3, "note": "é", "none": None})


def edited(*edits: Edit) -> Patch:
    return Patch(Concept("cat", ("cat",)), {"name": "uce"}, BASE, edits=edits)


ADD = Edit(NAMES[0], "add", noise(4, 1, seed=7), noise(1, WIDTH, seed=8))
MUL = Edit(NAMES[0], "mul", noise(4, 1, seed=9))
SET = Edit(OTHER, "set", noise(4, WIDTH, seed=10))


def weight(name: str, *patches: Patch) -> Tensor:
    """What a float64 weight becomes."""
    old = noise(4, WIDTH, seed=NAMES.index(name) if name in NAMES else 50).double()
    readers = dict.fromkeys(NAMES, Reader("text", None))
    return Merge(patches, BASE, readers, (*NAMES, OTHER)).weight(name, old)


# save and load


@pytest.mark.parametrize(
    "patch",
    [mapped(0), edited(ADD, MUL, SET), stack([mapped(0), mapped(1), edited(ADD, MUL)])],
    ids=["maps", "edits", "stack"],
)
def test_round_trip(patch: Patch, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    patch.save(path)
    found = load(path)
    assert contents(found) == contents(patch)
    assert {"time", "efface", "torch", "transformers"} <= set(found.made)
    assert [f.name for f in tmp_path.iterdir()] == ["p.safetensors"]
    found.save(path, force=True)
    assert contents(load(path)) == contents(patch)


def test_one_tensor_may_stand_in_two_places(tmp_path: Path) -> None:
    shared = noise(WIDTH, 2)
    twice = Patch(Concept("cat", ("cat",)), {}, BASE, (PromptMap("text", shared, shared),))
    strided = edited(Edit(NAMES[0], "add", noise(WIDTH, 4).T))
    for patch in (twice, strided, stack([edited(ADD), edited(ADD)])):
        patch.save(tmp_path / "p.safetensors", force=True)
        assert contents(load(tmp_path / "p.safetensors")) == contents(patch)


def test_existing_output_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_text("precious")
    with pytest.raises(EffaceError, match=f"{path} exists.*--force"):
        mapped(0).save(path)
    assert path.read_text() == "precious"
    mapped(0).save(path, force=True)
    assert contents(load(path)) == contents(mapped(0))


@pytest.mark.parametrize("place", ["", "no/such/folder/p", "file/p", "x" * 300])
def test_impossible_output_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EffaceError, match=str(tmp_path)):
        mapped(0).save(tmp_path / place)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", [True, False])
def test_full_disk_leaves_things_as_they_were(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "p.safetensors"
    if there:
        mapped(0).save(path)
    before = {f: f.read_bytes() for f in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # the disk is full after 500 bytes
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 (the code is checked below)
            mapped(1).save(path, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert {f: f.read_bytes() for f in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (edited(Edit(OTHER, "set", torch.tensor([[torch.nan]]))), "edits.0.a.*not finite"),
        (edited(Edit(OTHER, "set", torch.ones(1, 1, dtype=torch.int32))), "not finite"),
        (Patch(Concept("c", ("c",)), {}, BASE, facts={"x": float("inf")}), "story"),
        (Patch(Concept("c", ("c",), keep=("k" * 100,) * 11_000), {}, BASE), "keep fewer"),
    ],
    ids=["nan", "integer", "fact", "long"],
)
def test_what_could_not_be_read_is_not_written(patch: Patch, reason: str, tmp_path: Path) -> None:
    with pytest.raises(EffaceError, match=reason):
        patch.save(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


# scale


@pytest.mark.parametrize("patch", [mapped(0), edited(ADD, MUL)], ids=["maps", "edits"])
def test_strength(patch: Patch) -> None:
    base, full = weight(NAMES[0]), weight(NAMES[0], patch)
    assert not torch.allclose(base, full)
    assert torch.equal(weight(NAMES[0], patch.scale(0.0)), base)
    assert torch.equal(weight(NAMES[0], patch.scale(1.0)), full)
    assert contents(patch.scale(1.0)) == contents(patch)
    half = patch.scale(0.5)
    assert half.facts == {}
    assert half.eraser["strength"] == 0.5
    assert half.scale(0.5).eraser["strength"] == 0.25


def test_strength_is_linear_and_round_trips(tmp_path: Path) -> None:
    patch = mapped(0)
    base, full = weight(NAMES[0]), weight(NAMES[0], patch)
    for strength in (0.5, -1.0, 2.0):
        scaled = patch.scale(strength)
        torch.testing.assert_close(weight(NAMES[0], scaled), base + strength * (full - base))
        scaled.save(tmp_path / "p.safetensors", force=True)
        assert contents(load(tmp_path / "p.safetensors")) == contents(scaled)
    assert contents(patch.scale(0.5).scale(2.0))["maps"] == contents(patch)["maps"]


def test_strength_that_means_nothing_is_refused() -> None:
    for strength in (float("nan"), float("inf")):
        with pytest.raises(EffaceError, match="strength"):
            mapped(0).scale(strength)
    with pytest.raises(EffaceError, match=f"sets {OTHER}"):
        edited(SET).scale(0.5)
    with pytest.raises(EffaceError, match=r"leaves the range of .*: lower its strength"):
        weight(NAMES[0], mapped(0).scale(1e300))


# stack


def test_stack_is_applying_in_order() -> None:
    one, two, three = mapped(0, "cat"), mapped(1, "dog"), mapped(2, "axe")
    both = stack([one, two, three])
    for name in NAMES:
        expected = weight(name, one, two, three)
        torch.testing.assert_close(weight(name, both), expected, rtol=1e-13, atol=1e-13)
        assert not torch.allclose(weight(name, stack([three, two, one])), expected, rtol=1e-3)
    nested = stack([stack([one, two]), three])
    torch.testing.assert_close(weight(name, nested), expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(weight(OTHER, both), weight(OTHER))


def test_stack_tells_of_all() -> None:
    one, two = mapped(0, "cat"), mapped(1, "axe")
    both = stack([one, two])
    assert both.concept.erase == ("cat", "a cat", "axe", "a axe")
    assert both.concept.goals() == ("dog",) * 4
    assert both.eraser == {"name": "stack", "of": [one.eraser, two.eraser]}
    assert both.facts == {"of": [one.facts, two.facts]}
    assert contents(one) == contents(mapped(0, "cat"))


def test_stack_of_edits_keeps_their_order() -> None:
    first, second = edited(ADD), edited(MUL)
    expected = weight(NAMES[0], first, second)
    assert torch.equal(weight(NAMES[0], stack([first, second])), expected)
    assert not torch.allclose(weight(NAMES[0], stack([second, first])), expected)
    after = weight(NAMES[0], stack([mapped(0), first]))
    torch.testing.assert_close(after, weight(NAMES[0], mapped(0), first), rtol=1e-13, atol=1e-13)
    # Edits of different tensors do not meet.
    a, b = weight(OTHER, stack([first, edited(SET)])), weight(OTHER, stack([edited(SET), first]))
    assert torch.equal(a, b)


def test_dropping_a_patch_reverts_it() -> None:
    one, two = mapped(0), mapped(1)
    stack([one, two])
    assert torch.equal(
        weight(NAMES[0], *[p for p in (one, two) if p is not two]), weight(NAMES[0], one)
    )
    assert contents(one) == contents(mapped(0))


def test_stack_refuses_what_it_cannot_do() -> None:
    with pytest.raises(EffaceError, match="nothing to stack"):
        stack([])
    with pytest.raises(EffaceError, match="map cannot be stacked on edits"):
        stack([edited(ADD), mapped(0)])
    with pytest.raises(EffaceError, match=f"different bases.*{BASE} and cccc-dddd"):
        stack([mapped(0), mapped(1, base="cccc-dddd")])


def test_stack_takes_one_base_in_two_precisions() -> None:
    half = "aaaaaaaaaaaaaaaa-cccccccccccccccc"
    assert stack([mapped(0), mapped(1, base=half)]).base == BASE

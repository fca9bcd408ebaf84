"""ConceptPrune against its paper: scores written out slowly, and what its masks must hold to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError, quiet
from efface.erasers import build
from efface.export import export_folder
from efface.patch import Patch, load, stack
from tests.equal import bits, contents, hooks, state
from tests.families import build_family

CONCEPT = Concept("cat", ("cat",), keep=("house", "tree"))
SHORT: dict[str, Any] = {"pairs": 3, "calls": 2, "drawing_steps": 4, "ratio": 0.2}


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


def fit(model: Model, concept: Concept = CONCEPT, **settings: Any) -> Patch:
    eraser = build("conceptprune", **{**SHORT, **settings})
    return eraser.fit(model, concept, Generator().manual_seed(0), quiet)


def zeros(patch: Patch) -> dict[str, Tensor]:
    return {e.param: ~e.a for e in patch.edits}


@pytest.fixture(scope="module")
def patch(model: Model) -> Patch:
    return fit(model)


def test_only_second_feed_forward_weights_become_zero(tiny: Path, patch: Patch) -> None:
    pipe = load_pipeline(str(tiny))
    before = state(pipe)
    erased = dict(apply(pipe, patch).unet.named_parameters())
    assert state(pipe) == before
    pruned = zeros(patch)
    for name, old in pipe.unet.named_parameters():
        new = erased[name]
        if not name.endswith(".ff.net.2.weight"):
            assert new.data_ptr() == old.data_ptr()
            continue
        gone = pruned.pop(f"unet/{name}")
        assert gone.any()
        assert torch.equal(new, torch.where(gone, 0.0, old))
        assert old[gone].all(), "the control: they were no zeros before"
    assert not pruned


def test_scores_are_the_literal_ones(tiny: Path) -> None:
    """One drawing, one call, token by token, on diffusers' own U-Net."""
    pipe = load_pipeline(str(tiny))
    model = open_pipeline(pipe)
    settings = {"pairs": 1, "calls": 1, "ratio": 0.3}
    patch = fit(model, Concept("cat", ("cat",), keep=("house",)), **settings)
    rng = Generator().manual_seed(0)
    seeded = Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
    noise = torch.randn(1, 4, 8, 8, generator=seeded)
    time = int((3 + torch.rand(1, generator=seeded).item()) * 1000 / 4)
    target, base = (read(pipe, model, f"a {word}", noise, time) for word in ("cat", "house"))
    for edit in patch.edits:
        name = edit.param.removeprefix("unet/").removesuffix(".weight")
        weight = pipe.unet.get_parameter(f"{name}.weight").abs()
        ours, theirs = weight * target[name], weight * base[name]
        count = -(-3 * weight.shape[1] // 10)
        for i, row in enumerate(weight):
            best = sorted(range(len(row)), key=lambda j: -ours[i, j].item())[:count]
            gone = {j for j in best if ours[i, j] > theirs[i, j]}
            assert gone == set((~edit.a[i]).nonzero().flatten().tolist())


def read(pipe: Any, model: Model, prompt: str, noise: Tensor, time: int) -> dict[str, Tensor]:
    """What every second feed-forward layer reads, as column norms of unit rows."""
    heard: dict[str, list[Tensor]] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: heard.setdefault(name, []).extend(args[0].flatten(0, -2))
        )
        for name, layer in pipe.unet.named_modules()
        if name.endswith(".ff.net.2")
    ]
    with torch.no_grad():
        for said in (prompt, ""):
            pipe.unet(noise, time, model.encode([said]).states)
    for handle in handles:
        handle.remove()
    return {
        name: torch.stack([(row / row.norm()).square() for row in rows]).sum(0).sqrt()
        for name, rows in heard.items()
    }


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"ratio": 0.1}, {"ratio": 0.3}),
        ({"calls": 1}, {"calls": 2}),
        ({"agreeing": 0.5}, {"agreeing": 0.0}),
    ],
    ids=["ratio", "calls", "agreeing"],
)
def test_masks_are_nested(less: Any, more: Any, model: Model) -> None:
    small, large = zeros(fit(model, **less)), zeros(fit(model, **more))
    assert all((small[n] <= large[n]).all() for n in small)
    assert sum(int(m.sum()) for m in small.values()) < sum(int(m.sum()) for m in large.values())


def test_a_row_loses_at_most_its_share(model: Model) -> None:
    for mask in zeros(fit(model, calls=1)).values():
        assert mask.sum(1).max() <= -(-mask.shape[1] // 5)


def test_a_concept_that_is_its_absence_loses_nothing(model: Model) -> None:
    """The comparison is strict: the same prompt on both sides prunes nothing at all."""
    same = Concept("house", ("house",), within=("cat",))
    eraser: Any = build("conceptprune", **SHORT)
    without, within = eraser.prompts(same)
    assert without != within
    object.__setattr__(eraser, "prompts", lambda concept: (within, within))
    patch = eraser.fit(model, same, Generator().manual_seed(0), quiet)
    assert patch.facts["pruned"] == 0
    assert fit(model, same).facts["pruned"] > 0


def test_prompts_pair_the_concept_with_its_absence() -> None:
    kept: Any = build("conceptprune", pairs=2)
    assert kept.prompts(CONCEPT) == (("a house", "a tree"), ("a cat", "a cat"))
    assert kept.prompts(Concept("cat", ("cat",))) == (("", ""), ("a cat", "a cat"))
    styled = Concept("blob", ("blob style",), within=("dog", "car"))
    assert kept.prompts(styled) == (
        ("a dog", "a car"),
        ("a dog in blob style", "a car in blob style"),
    )
    placed: Any = build("conceptprune", "paper", pairs=1)
    assert placed.prompts(CONCEPT) == (("a street",), ("a cat in a street",))


def test_what_leaks_is_told(patch: Patch) -> None:
    told = patch.facts
    assert told["pruned"] == sum(int((~e.a).sum()) for e in patch.edits)
    assert told["of"] == sum(e.a.numel() for e in patch.edits)
    assert told["zeros"] == told["pruned"] / told["of"]


def test_saved_scaled_stacked_exported(
    tiny: Path, model: Model, patch: Patch, tmp_path: Path
) -> None:
    patch.save(tmp_path / "p.safetensors")
    size = (tmp_path / "p.safetensors").stat().st_size
    assert patch.facts["of"] <= size < patch.facts["of"] + 20_000, "a byte a weight"
    read_back = load(tmp_path / "p.safetensors")
    assert contents(read_back) == contents(patch)
    other = fit(model, Concept("dog", ("dog",), keep=("house",)))
    pipe = load_pipeline(str(tiny))
    name = patch.edits[0].param.removeprefix("unet/")

    def weight(*patches: Patch) -> Tensor:
        return apply(pipe, *patches).unet.get_parameter(name)

    old = pipe.unet.get_parameter(name)
    both = old * patch.edits[0].a * other.edits[0].a
    assert torch.equal(weight(patch, other), both)
    assert bits(weight(patch, other)) == bits(weight(other, patch))
    assert bits(weight(patch, other)) == bits(weight(stack([patch, other])))
    half = torch.where(patch.edits[0].a, old, old / 2)
    assert torch.equal(weight(patch.scale(0.5)), half)
    export_folder(tiny, [patch], tmp_path / "out", quiet)
    exported = open_folder(tmp_path / "out").weight(patch.edits[0].param)
    assert torch.equal(exported, weight(patch))


def test_no_hook_remains(model: Model) -> None:
    def fail(what: str, step: int, of: int) -> None:
        if step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("conceptprune", **SHORT).fit(model, CONCEPT, Generator().manual_seed(0), fail)
    fit(model)
    assert not any(hooks(m) for m in model.denoiser().module.modules())


@pytest.mark.parametrize("name", ["sdxl", "pixart", "sd3", "sana"])
def test_other_families(name: str, tmp_path: Path) -> None:
    model = open_folder(build_family(name, tmp_path / name))
    if name == "sana":
        with pytest.raises(EffaceError, match="this denoiser has none"):
            fit(model)
        return
    assert fit(model).facts["pruned"] > 0


def test_bad_settings_are_refused() -> None:
    wrong: dict[str, Any]
    for wrong in ({"ratio": 0.0}, {"ratio": 2.0}, {"agreeing": 1.0}, {"pairs": 0}, {"calls": 99}):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            build("conceptprune", **wrong)

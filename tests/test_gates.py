"""Gates: in the file, on a view, and refused where they do not belong."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.core import Concept, EffaceError, Gate, quiet
from efface.export import export_folder
from efface.export_lora import export_lora
from efface.gates.features import Listed, parts
from efface.hook import read_maps
from efface.patch import Patch, load, stack
from efface.sae import TopK
from tests.equal import contents, state
from tests.test_patch_damage import forged
from tests.tiny import WIDTH

SITE = "text_encoder/encoder.layers.0"
PROMPTS = ["a cat", "a dog", ""]


@pytest.fixture(scope="module")
def model(pipe: DiffusionPipeline) -> Model:
    return open_pipeline(pipe)


def gated(model: Model, site: str = SITE, seed: int = 0, threshold: float = 0.0) -> Patch:
    """A patch whose gate turns random features down; at threshold 0 in every prompt."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(64, WIDTH, generator=rng)
    sae = TopK(8, weight.T.contiguous(), torch.zeros(64), weight / 6, torch.zeros(WIDTH))
    held = parts(sae, [Listed("cat", range(seed, 64, 2), -1.0, threshold)], keep_error=True)
    gate = Gate(site, "features", model.reads(site), held.settings, held.tensors)
    concept = Concept("cat", ("cat",))
    return Patch(concept, {"name": "itd"}, model.fingerprint, gates=(gate,))


def rows(pipe: DiffusionPipeline, prompts: list[str] | None = None) -> torch.Tensor:
    return open_pipeline(pipe).encode(prompts or PROMPTS).states


def test_saved_and_loaded_is_equal(model: Model, tmp_path: Path) -> None:
    patch = gated(model)
    patch.save(tmp_path / "p.safetensors")
    assert contents(load(tmp_path / "p.safetensors")) == contents(patch)


def test_view_is_gated_and_the_base_is_not(pipe: DiffusionPipeline, model: Model) -> None:
    before, plain = state(pipe), rows(pipe)
    erased = apply(pipe, gated(model))
    assert (rows(erased) != plain).flatten(1).any(1).all()
    assert torch.equal(rows(pipe), plain)
    assert state(pipe) == before
    own = dict(erased.text_encoder.named_parameters())
    for name, tensor in pipe.text_encoder.named_parameters():
        assert own[name].data_ptr() == tensor.data_ptr()
    assert not set(own) - set(dict(pipe.text_encoder.named_parameters()))


def test_closed_gate_gives_the_same_bits(pipe: DiffusionPipeline, model: Model) -> None:
    assert torch.equal(rows(apply(pipe, gated(model, threshold=1e9))), rows(pipe))


def test_gate_that_fails_leaves_nothing_behind(pipe: DiffusionPipeline, model: Model) -> None:
    erased = apply(pipe, gated(model))
    right = rows(erased)
    with pytest.raises(EffaceError, match="run the whole text encoder"):
        erased.text_encoder.encoder.layers[0](torch.zeros(1, 3, WIDTH, device=pipe.device), None)
    with pytest.raises(IndexError):
        erased.text_encoder(torch.full((1, 3), 10**6, device=pipe.device))
    with pytest.raises(EffaceError, match="run the whole text encoder"):
        erased.text_encoder.encoder.layers[0](torch.zeros(1, 3, WIDTH, device=pipe.device), None)
    assert torch.equal(rows(erased), right)


def test_threads_do_not_hear_each_other(pipe: DiffusionPipeline, model: Model) -> None:
    erased = apply(pipe, gated(model))
    wanted = {p: rows(erased, [p]) for p in PROMPTS}
    wrong = list[str]()

    def encode(prompt: str) -> None:
        wrong.extend(
            prompt for _ in range(10) if not torch.equal(rows(erased, [prompt]), wanted[prompt])
        )

    threads = [threading.Thread(target=encode, args=(p,)) for p in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("second", [SITE, "text_encoder/encoder.layers.1"])
def test_stacked_is_one_after_the_other(pipe: DiffusionPipeline, model: Model, second: str) -> None:
    one, two = gated(model), gated(model, second, seed=1)
    together = rows(apply(pipe, one, two))
    assert torch.equal(rows(apply(pipe, stack([one, two]))), together)
    assert torch.equal(rows(apply(apply(pipe, one), two)), together)
    turned = rows(apply(pipe, two, one))
    assert torch.equal(together, turned) == (second != SITE)  # at one site order counts
    assert not torch.equal(together, rows(apply(pipe, one)))


def test_gradients_pass_an_open_gate(pipe: DiffusionPipeline, model: Model) -> None:
    """White-box attacks look through it."""
    from efface.gates import build

    found = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = build(gated(model).gates[0])(found, torch.ones(1, 5, dtype=torch.bool))
    [gradient] = torch.autograd.grad(out.square().sum(), found)
    assert not torch.equal(gradient, 2 * found)


@pytest.mark.parametrize("layer", [0, 1])
def test_weights_that_the_gate_reads_must_be_the_same(tiny: Path, model: Model, layer: int) -> None:
    """The base's fingerprint does not cover the layers; the gate's own does, up to its site."""
    other = load_pipeline(str(tiny))
    with torch.no_grad():
        other.text_encoder.encoder.layers[layer].mlp.fc1.weight[0, 0] += 1
    assert open_pipeline(other).fingerprint == model.fingerprint
    if layer == 0:
        with pytest.raises(EffaceError, match=r"gate at text_encoder/encoder.layers.0 was fitted"):
            apply(other, gated(model))
    else:
        apply(other, gated(model))


def test_half_precision_is_the_same_weights(tiny: Path, model: Model) -> None:
    half = load_pipeline(str(tiny), dtype=torch.float16)
    erased = apply(half, gated(model))
    assert not torch.equal(rows(erased), rows(half))
    assert rows(erased).isfinite().all()


def test_gate_in_the_denoiser(pipe: DiffusionPipeline, model: Model) -> None:
    """Its site is covered by its own weights; a gate of features is refused there when it runs."""
    site = "unet/down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    patch = gated(model, site)
    with pytest.raises(EffaceError, match="belongs into a text encoder"):
        apply(pipe, patch)("a cat", num_inference_steps=1, output_type="latent")
    with pytest.raises(EffaceError, match="no module"):
        gated(model, "unet/nothing")
    with pytest.raises(EffaceError, match="no text layer"):
        gated(model, "text_encoder/encoder.layers.7")


def test_folder_and_pipeline_read_the_same(tiny: Path, model: Model) -> None:
    folder = open_folder(tiny)
    assert folder.reads(SITE) == model.reads(SITE)
    assert torch.equal(folder.heard(PROMPTS, SITE).rows, model.heard(PROMPTS, SITE).rows)
    assert folder.heard(PROMPTS, SITE).holds.sum(1).tolist() == [3, 3, 1]


def refusals(tiny: Path, out: Path) -> dict[str, Callable[[Patch], object]]:
    return {
        "scale": lambda p: p.scale(0.5),
        "folder": lambda p: export_folder(tiny, [p], out / "erased", quiet),
        "lora": lambda p: export_lora(tiny, [p], out / "l.safetensors", quiet),
        "kohya": lambda p: export_lora(tiny, [p], out / "k.safetensors", quiet, form="kohya"),
    }


@pytest.mark.parametrize("what", ["scale", "folder", "lora", "kohya"])
def test_what_a_gate_cannot_do_is_refused(
    what: str, tiny: Path, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(EffaceError, match=r"gate at text_encoder.*(efface.apply|settings)"):
        refusals(tiny, tmp_path)[what](gated(model))
    assert not list(tmp_path.iterdir())


def test_node_refuses_it(model: Model, tmp_path: Path) -> None:
    gated(model).save(tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="has a gate"):
        read_maps(tmp_path / "p.safetensors")


DAMAGE: dict[str, tuple[Callable[[list[Any]], object], str]] = {
    "kind": (lambda g: g.__setitem__(1, "os:system"), "of the kind 'os:system'"),
    "no site": (lambda g: g.__setitem__(0, 3), "not a site"),
    "short": (lambda g: g.pop(), "not a site"),
    "setting more": (lambda g: g[3].update(eval="1"), "has not the settings"),
    "setting less": (lambda g: g[3].pop("k"), "has not the settings"),
    "factor text": (lambda g: g[3]["concepts"][0].__setitem__(2, "-8"), "a concept that is not"),
    "factor 1": (lambda g: g[3]["concepts"][0].__setitem__(2, 1.0), "a factor below 1"),
    "k": (lambda g: g[3].update(k=0), "has k 0"),
    "k too large": (lambda g: g[3].update(k=65), "has k 65"),
    "k true": (lambda g: g[3].update(k=True), "has k True"),
    "feature out of range": (lambda g: g[3]["concepts"][0][1].append(64), "features below 64"),
    "feature of text": (lambda g: g[3]["concepts"][0][1].append("1"), "features below 64"),
    "feature more": (lambda g: g[3]["concepts"][0][1].append(1), "do not fit"),
    "no feature": (lambda g: g[3].update(concepts=[]), "turns no feature down"),
    "concepts of numbers": (lambda g: g[3].update(concepts=[1]), "a concept that is not"),
    "all rows wanted": (lambda g: g[3].update(keep_error=False), "do not fit"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_in_a_sentence(case: str, model: Model, tmp_path: Path) -> None:
    import json

    data = gated(model).to_bytes()
    length = int.from_bytes(data[:8], "little")
    story = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["efface"])
    change, told = DAMAGE[case]
    change(story["gates"][0])
    tensors = {f"gates.0.{n}": t for n, t in gated(model).gates[0].tensors.items()}
    path = tmp_path / "p.safetensors"
    path.write_bytes(forged(json.dumps(story), tensors))
    with pytest.raises(EffaceError, match=told) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("lost", ["W_enc", "b_dec"])
def test_lost_tensors_are_told(lost: str, model: Model) -> None:
    gate = gated(model).gates[0]
    rest = {n: t for n, t in gate.tensors.items() if n != lost}
    from efface.gates import build

    with pytest.raises(EffaceError, match="has not the matrices"):
        build(replace(gate, tensors=rest))

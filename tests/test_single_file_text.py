"""Text encoders of single-file checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_open_clip_checkpoint,
    convert_sd3_t5_checkpoint_to_diffusers,
)
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from efface.backbones.encoder_weights import fit
from efface.backbones.ldm_encoders import LAYOUTS
from efface.backbones.single_file import SingleFile
from efface.core import EffaceError
from tests import ldm
from tests.equal import bits
from tests.ldm import Tensors, named, open_clip
from tests.test_single_file import flux, sd3, tiny_unet, written

SD1, SD2 = "cond_stage_model.transformer.", "cond_stage_model.model."
XL1, XL2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
CLIP_L, CLIP_G, T5 = (f"text_encoders.{n}.transformer." for n in ("clip_l", "clip_g", "t5xxl"))
VOCAB = 300
DENOISERS: dict[str, Callable[[], Tensors]] = {
    "sd1": lambda: tiny_unet("sd1"),
    "sd2": lambda: tiny_unet("sd2"),
    "sdxl": lambda: tiny_unet("sdxl"),
    "sd3": lambda: {ldm.DENOISER + n: t for n, t in sd3()[1].items()},
    "flux": lambda: {ldm.DENOISER + n: t for n, t in flux()[1].items()},
}


def file_of(kind: str, folder: Path, *encoders: Tensors) -> SingleFile:
    tensors = DENOISERS[kind]()
    for encoder in encoders:
        tensors |= encoder
    file = SingleFile(written({n: t.clone() for n, t in tensors.items()}, folder))
    assert file.kind == kind
    return file


def ids(vocab: int = VOCAB) -> Tensor:
    """Two prompts: start, words, end, and padding after one of them."""
    start, end = vocab - 2, vocab - 1
    return torch.tensor([[start, 5, 17, 40, end], [start, 9, end, 0, 0]])


@torch.no_grad()
def said(encoder: nn.Module, tokens: Tensor) -> dict[str, Any]:
    """Everything an encoder answers, layer by layer."""
    out = encoder(tokens, output_hidden_states=True)
    layers = {f"layer {i}": bits(h) for i, h in enumerate(out.hidden_states)}
    names = ("last_hidden_state", "pooler_output", "text_embeds")
    return layers | {n: bits(t) for n in names if (t := getattr(out, n, None)) is not None}


def refiner() -> Tensors:
    return open_clip(ldm.projected(), "conditioner.embedders.0.model.")


def with_a_layer_more(encoder: Any, prefix: str) -> Tensors:
    """A random layer after the last: OpenCLIP's file of an encoder of which all but one is read."""
    longer = ldm.clip(layers=encoder.config.num_hidden_layers + 1, act="gelu", seed=7)
    return open_clip(longer, prefix) | open_clip(encoder, prefix)


def sources() -> dict[str, tuple[str, str, Any, Tensors]]:
    """Id -> kind, component, the original encoder, its tensors in the file."""
    clip, g, wide, t5 = ldm.clip(), ldm.projected(), ldm.clip(layers=23, act="gelu"), ldm.t5()
    old = {f"{SD1}text_model.embeddings.position_ids": torch.arange(16)[None]}
    projection = {f"{SD1}text_projection.weight": torch.rand(64, 64)}
    t5_file = {T5 + n: t for n, t in t5.state_dict().items()}
    one_name = {n: t for n, t in t5_file.items() if n != f"{T5}encoder.embed_tokens.weight"}
    other_name = {n: t for n, t in t5_file.items() if n != f"{T5}shared.weight"}
    return {
        "sd1": ("sd1", "text_encoder", clip, named(clip, SD1) | old),
        "sd1 bare": ("sd1", "text_encoder", clip, named(clip, SD1, top="")),
        "sd1 projection": ("sd1", "text_encoder", clip, named(clip, SD1) | projection),
        "sd2": ("sd2", "text_encoder", wide, with_a_layer_more(wide, SD2)),
        "sd2 cut": ("sd2", "text_encoder", wide, open_clip(wide, SD2)),
        "sdxl": ("sdxl", "text_encoder", clip, named(clip, XL1) | open_clip(g, XL2)),
        "sdxl 2": ("sdxl", "text_encoder_2", g, named(clip, XL1) | open_clip(g, XL2)),
        "refiner": ("sdxl", "text_encoder_2", g, refiner()),
        "sd3 2": ("sd3", "text_encoder_2", g, named(g, CLIP_G)),
        "sd3 3": ("sd3", "text_encoder_3", t5, t5_file),
        "sd3 3 shared": ("sd3", "text_encoder_3", t5, one_name),
        "sd3 3 inner": ("sd3", "text_encoder_3", t5, other_name),
        "flux": ("flux", "text_encoder", clip, named(clip, CLIP_L)),
        "flux 2": ("flux", "text_encoder_2", t5, t5_file),
    }


CASES = list(sources())


@pytest.mark.parametrize("case", CASES)
def test_encoder_says_the_same(case: str, tmp_path: Path) -> None:
    kind, which, original, stored = sources()[case]
    file = file_of(kind, tmp_path, stored)
    before = torch.random.get_rng_state()
    read = file.text_encoder(which)
    built = read.build()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(built) is type(original)
    assert type(built).__name__ == read.model
    assert not built.training
    tokens = ids() if read.model.startswith("CLIP") else torch.tensor([[3, 4, 1], [7, 1, 0]])
    assert said(built, tokens) == said(original, tokens)
    assert short(built.state_dict()) == short(original.state_dict())
    if read.model == "T5EncoderModel":
        assert built.shared.weight is built.encoder.embed_tokens.weight  # held once
    for name, value in read.config.items():
        if name != "pad_token_id":
            assert getattr(original.config, name) == value, name


def test_identity_projection_of_sd3(tmp_path: Path) -> None:
    original = ldm.projected(act="quick_gelu")
    file = file_of("sd3", tmp_path, named(original, CLIP_L))
    with torch.no_grad():
        out = file.text_encoder().build()(ids())
        meant = original.text_model(ids())
    assert bits(out.text_embeds) == bits(meant.pooler_output)
    assert bits(out.last_hidden_state) == bits(meant.last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_encoder_in_the_precision_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    original = ldm.clip()
    stored = {n: t.to(dtype) for n, t in named(original, SD1).items()}
    read = file_of("sd1", tmp_path, stored).text_encoder()
    assert {t.dtype for t in read.state.values()} == {dtype}
    original.load_state_dict({n: t.to(dtype).float() for n, t in original.state_dict().items()})
    assert said(read.build(), ids()) == said(original, ids())


# layouts


@pytest.mark.parametrize(("which", "kind"), [("text_encoder", "sd2"), ("text_encoder_2", "sdxl")])
def test_open_clip_by_its_own_arithmetic(tmp_path: Path, which: str, kind: str) -> None:
    prefix = SD2 if kind == "sd2" else XL2
    tensors = open_clip(ldm.projected())
    if kind == "sd2":
        del tensors["text_projection"]
    file = file_of(kind, tmp_path, {prefix + n: t for n, t in tensors.items()})
    with torch.no_grad():
        rows, pooled = ldm.open_clip_rows(tensors, ids(), 2, gelu)
        out = file.text_encoder(which).build()(ids())
    torch.testing.assert_close(out.last_hidden_state, rows, atol=1e-5, rtol=1e-5)
    if pooled is not None:
        torch.testing.assert_close(out.text_embeds, pooled, atol=1e-5, rtol=1e-5)
        assert (out.text_embeds - rows[torch.arange(2), ids().argmax(-1)]).abs().max() > 0.1


def short(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A state dict's bits, by names that do not depend on the version of transformers."""
    return {n.removeprefix("text_model."): bits(t) for n, t in state.items()}


def test_agrees_with_the_converters_of_diffusers(tmp_path: Path) -> None:
    clip, g = ldm.clip(), ldm.projected()
    file = file_of("sdxl", tmp_path, named(clip, XL1), open_clip(g, XL2))
    tensors = {n: file.tensor(n) for n in file.header}
    theirs = convert_open_clip_checkpoint(g, tensors, XL2)
    assert short(file.text_encoder("text_encoder_2").state) == short(theirs)
    theirs = convert_ldm_clip_checkpoint(tensors)
    assert short(file.text_encoder().state) == short(theirs)

    wide = ldm.clip(layers=23, act="gelu")
    file = file_of("sd2", tmp_path, with_a_layer_more(wide, SD2))
    theirs = convert_open_clip_checkpoint(wide, {n: file.tensor(n) for n in file.header}, SD2)
    assert short(file.text_encoder().state) == short(theirs)

    t5 = {T5 + n: t for n, t in ldm.t5().state_dict().items()}
    state = file_of("sd3", tmp_path, t5).text_encoder("text_encoder_3").state
    theirs = convert_sd3_t5_checkpoint_to_diffusers(t5)
    assert short(state) == short(theirs)


RELEASED = [("sd1", 0, 768, 12, 12), ("sd2", 0, 1024, 24, 23), ("sdxl", 1, 1280, 32, 32)]
"""Kind, which of its encoders, width of its rows, layers in the file, layers used."""


@pytest.mark.parametrize(("kind", "which", "width", "stored", "used"), RELEASED)
def test_configs_of_the_released_encoders(
    kind: str, which: int, width: int, stored: int, used: int
) -> None:
    layout = LAYOUTS[kind][which]
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
    }
    config = CLIPTextConfig(**sizes, num_hidden_layers=stored, num_attention_heads=width // 64)
    with torch.device("meta"):
        encoder = CLIPTextModelWithProjection(config)
    own = named(encoder, SD1) if kind == "sd1" else open_clip(encoder, layout.prefix)
    found, pieces = fit(layout, {n: tuple(t.shape) for n, t in own.items()}, "it")
    assert found == {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": used,
        "num_attention_heads": width // 64,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu" if kind == "sd1" else "gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407 if kind == "sd1" else 0,
    } | ({"projection_dim": width} if kind == "sdxl" else {})
    assert len(pieces) == 4 + 16 * used + (kind == "sdxl")


# refusals


@pytest.mark.parametrize("kind", LAYOUTS)
def test_no_encoder(kind: str, tmp_path: Path) -> None:
    file = file_of(kind, tmp_path)
    assert not file.text_encoders()
    with pytest.raises(EffaceError, match=r"holds none\): give the diffusers folder"):
        file.text_encoder()


def test_another_encoder(tmp_path: Path) -> None:
    file = file_of("sdxl", tmp_path, refiner())
    with pytest.raises(EffaceError, match=r"no text_encoder \(its encoders are text_encoder_2\)"):
        file.text_encoder("text_encoder")


LAST = f"{SD1}text_model.final_layer_norm.weight"
FIRST = f"{SD1}text_model.encoder.layers.0.mlp.fc1.weight"
EMBEDDED = f"{SD1}text_model.embeddings.token_embedding.weight"
DAMAGE: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda t: t.pop(LAST), r"text_encoder lacks '(text_model\.)?final_layer_norm"),
    "left over": (lambda t: t.update({f"{SD1}more": torch.ones(1)}), "unexpected '(text_model.)?m"),
    "other shape": (lambda t: t.update({LAST: torch.ones(65)}), r"is \[65\], not \[64\]"),
    "no layer": (lambda t: t.pop(FIRST), "does not make a CLIPTextModel"),
    "flat": (lambda t: t.update({EMBEDDED: torch.ones(5)}), "does not make a CLIPTextModel"),
    "narrow": (lambda t: t.update({EMBEDDED: torch.ones(300, 60)}), "do not make heads of 64"),
    "empty": (lambda t: t.update({EMBEDDED: torch.ones(300, 0)}), "does not make a CLIPTextModel"),
    "quantised": (lambda t: t.update({LAST: torch.ones(64).to(torch.int8)}), "quantised"),
    "far layer": (
        lambda t: t.update({FIRST.replace("layers.0", "layers.1000000000"): torch.ones(1)}),
        "text_encoder (lacks|has an unexpected)",
    ),
}


@pytest.mark.parametrize(("change", "reason"), DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_encoder(tmp_path: Path, change: Callable[[Tensors], Any], reason: str) -> None:
    own = named(ldm.clip(), SD1)
    change(own)
    file = file_of("sd1", tmp_path, own)
    with pytest.raises(EffaceError, match=f"^{file.path}.*{reason}"):
        file.text_encoder()

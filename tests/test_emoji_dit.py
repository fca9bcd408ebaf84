"""The bundled transformer: loads with diffusers alone, reads a T5, forgets what is erased."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import efface
from efface.backbones.checkpoint import bundled, resolve
from efface.core import EffaceError
from efface.detectors.judge import Judge, reporting, tuning
from recipes.emoji_dit.denoiser import READ, reader

OTHERS = ("rocket", "pizza", "church", "cat")


@pytest.fixture(scope="module")
def base() -> Any:
    return efface.pipeline("emoji-dit")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return reporting("emoji-dit")


def test_it_is_small_and_knows_what_emoji_knows() -> None:
    folder, emoji = bundled()["emoji-dit"], bundled()["emoji"]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 45e6
    assert (folder / "concepts.json").read_bytes() == (emoji / "concepts.json").read_bytes()
    same = "vae/diffusion_pytorch_model.safetensors"
    assert (folder / same).read_bytes() == (emoji / same).read_bytes()


def test_diffusers_alone_draws_it(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["efface"] = None  # an import of it would fail
from diffusers import PixArtAlphaPipeline
pipe = PixArtAlphaPipeline.from_pretrained({str(resolve("emoji-dit"))!r})
picture = pipe("a pizza", num_inference_steps=2, use_resolution_binning=False).images[0]
picture.save({str(tmp_path / "pizza.png")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with Image.open(tmp_path / "pizza.png") as picture:
        assert picture.size == (64, 64)


def test_its_parts_are_of_the_classes_that_pixart_names(base: Any) -> None:
    names = {name: type(part).__name__ for name, part in base.components.items()}
    assert names == {
        "tokenizer": "T5Tokenizer",
        "text_encoder": "T5EncoderModel",
        "transformer": "PixArtTransformer2DModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDIMScheduler",
    }
    assert len(base.tokenizer) >= 2000
    for text in ("", "a pizza", "ZÜRICH 猫 1234 !?"):
        ids = base.tokenizer(text).input_ids
        assert ids[-1] == base.tokenizer.eos_token_id
        assert max(ids) < base.text_encoder.config.vocab_size
    assert base.tokenizer("a pizza, please").input_ids.count(base.tokenizer.unk_token_id) == 0


def test_training_reads_what_the_pipeline_reads(base: Any) -> None:
    texts = ["a pizza in the blob style, on a red background", "cat", ""]
    rows, mask, _, _ = base.encode_prompt(texts, do_classifier_free_guidance=False)
    with torch.no_grad():
        given = reader(base.tokenizer, base.text_encoder)(texts)
    assert torch.equal(given["encoder_attention_mask"], mask[:, :READ])
    assert mask.sum(1).max() < READ
    assert mask.sum(1)[2] == 1, "the empty prompt is its end token"
    seen = mask[:, :READ].bool()
    short = given["encoder_hidden_states"].float()
    torch.testing.assert_close(short[seen], rows[:, :READ][seen], rtol=1e-2, atol=1e-2)
    # The padding that training leaves out moves nothing.
    noise = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    time = torch.full((3,), 500)
    with torch.no_grad():
        long, cut = (
            base.transformer(
                noise,
                timestep=time,
                encoder_hidden_states=rows[:, :end],
                encoder_attention_mask=mask[:, :end],
            ).sample
            for end in (None, READ)
        )
    torch.testing.assert_close(cut, long, rtol=1e-4, atol=1e-4)


def test_a_prompt_is_drawn_as_it_is_read(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned, real = [], base._text_preprocessing

    def listen(text: Any, clean_caption: bool = True) -> Any:
        cleaned.append(clean_caption)
        return real(text, clean_caption)

    monkeypatch.setattr(base, "_text_preprocessing", listen)
    [picture] = efface.draw(base, ["a pizza"], steps=1)
    assert picture.size == (64, 64)
    assert cleaned == [False, False], "the prompt and the empty one"


def test_its_judges_are_emojis() -> None:
    for which in (tuning, reporting):
        ours, theirs = which("emoji-dit").model.state_dict(), which("emoji").model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_erased_is_gone_and_the_others_stay(base: Any, judge: Judge) -> None:
    erased = efface.apply(base, efface.erase("emoji-dit", "cigarette", method="rece"))
    cigarette = judge.watch("cigarette")
    before, after = (
        sum(
            bool(v.hit)
            for v in cigarette(efface.draw(pipe, ["a cigarette"], seeds=range(6), steps=10))
        )
        for pipe in (base, erased)
    )
    assert before >= 5
    assert after <= 1
    prompts = [f"a {name}" for name in OTHERS]
    seen = judge.names(efface.draw(erased, prompts, seeds=range(2), steps=10))
    assert sum(a == b for a, b in zip(seen, [o for o in OTHERS for _ in range(2)], strict=True)) > 5


def test_a_patch_is_saved_loaded_and_bound_to_its_model(base: Any, tmp_path: Path) -> None:
    patch = efface.erase("emoji-dit", "pizza", method="uce")
    patch.save(tmp_path / "no-pizza.safetensors")
    again = efface.load(tmp_path / "no-pizza.safetensors")
    name = "caption_projection.linear_1.weight"
    one, other = (efface.apply(base, p).transformer.state_dict() for p in (patch, again))
    changed = {n for n, w in base.transformer.state_dict().items() if not torch.equal(w, one[n])}
    assert changed == {name}
    assert torch.equal(one[name], other[name])
    with pytest.raises(EffaceError):
        efface.apply(efface.pipeline("emoji"), patch)

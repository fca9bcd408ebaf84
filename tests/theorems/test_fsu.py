"""FSU against its paper: what ascends, on what, and that everything sees the edited encoder."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from efface.backbones.model import Model, open_folder, open_pipeline
from efface.backbones.pipeline import apply, load_pipeline
from efface.backbones.speaker import spoken
from efface.core import Concept, EffaceError, quiet
from efface.erasers import build
from efface.patch import Patch
from efface.train import Standing
from tests.equal import contents, state
from tests.families import build_family

CONCEPT = Concept("cat", ("cat",), keep=("house", "tree"))
SHORT: dict[str, Any] = {"steps": 6, "rate": 3e-3, "drawings": 2, "drawing_steps": 4}
TRAINED = 2 * (2 * 32 * 64 + 64 + 32) + 4 * (32 * 32 + 32)
"""Of the tiny text encoder: two layers of 32, fed forward through 64."""


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of odd sizes and modes."""
    folder = tmp_path_factory.mktemp("shots")
    rng = Generator().manual_seed(0)
    for i, (mode, size) in enumerate([("RGB", (37, 23)), ("L", (16, 64)), ("RGBA", (90, 31))]):
        bands = len(Image.new(mode, (1, 1)).getbands())
        raw = torch.randint(256, (size[0] * size[1] * bands,), generator=rng, dtype=torch.uint8)
        Image.frombytes(mode, size, raw.numpy().tobytes()).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def fit(model: Model, concept: Concept = CONCEPT, seed: int = 0, **settings: Any) -> Patch:
    eraser = build("fsu", **{**SHORT, **settings})
    return eraser.fit(model, concept, Generator().manual_seed(seed), quiet)


@pytest.fixture(scope="module")
def patch(model: Model) -> Patch:
    return fit(model)


def test_trained_count_of_sd14_is_the_papers() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    from efface.erasers.fsu import trained_names

    with torch.device("meta"):
        clip: Any = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_attention_heads=12,
                num_hidden_layers=12,
            )
        )
    sizes = spoken((f"text_encoder/{n}", p.numel()) for n, p in clip.named_parameters())
    assert sum(sizes[n] for n in trained_names(list(sizes))) == 59_031_552


def test_only_the_listed_parameters_move(tiny: Path) -> None:
    pipe = load_pipeline(str(tiny))
    before = state(pipe)
    patch = fit(open_pipeline(pipe))
    assert state(pipe) == before
    listed = {e.param for e in patch.edits}
    assert patch.facts["trained"] == sum(e.a.numel() for e in patch.edits) == TRAINED
    assert all(".mlp." in n or ".layers.1.self_attn." in n for n in listed)
    assert all(e.a.any() for e in patch.edits if not e.param.endswith("k_proj.bias"))
    erased = apply(pipe, patch)
    old, new = (
        spoken((f"text_encoder/{n}", p) for n, p in p.text_encoder.named_parameters())
        for p in (pipe, erased)
    )
    same = {n for n in old if old[n].data_ptr() == new[n].data_ptr()}
    assert same == old.keys() - listed
    for one, other in zip(pipe.unet.parameters(), erased.unet.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()


def test_no_steps_no_change(model: Model) -> None:
    patch = fit(model, steps=0)
    assert patch.edits
    assert not any(e.a.any() for e in patch.edits)
    assert patch.facts["moved"]["erased"] == pytest.approx(0, abs=1e-6)


def test_the_loss_ascends(model: Model) -> None:
    """Over many times, not an update's; the control is the base, where nothing was trained."""
    from efface.likeness import misfit, noised
    from efface.moments import remembered, say, spread

    concept = Concept("cat", ("cat",))
    speaker, denoiser = model.speaker(), model.denoiser()
    seed = int(torch.randint(2**62, (1,), generator=Generator().manual_seed(0)))
    phrases = ["cat", "a cat"]
    shown = remembered(
        denoiser, say(model, phrases), say(model, ["", ""]), spread(2, 2),
        steps=4, guidance=5.0, seed=seed, on_step=quiet,
    ).ends.repeat(32, 1, 1, 1)  # fmt: skip

    def loss(patch: Patch) -> float:
        weights = {e.param: speaker.weight(e.param) + e.a for e in patch.edits}
        said = speaker.say(phrases * 32, weights)
        with torch.no_grad():
            rng = Generator().manual_seed(9)
            seen = noised(denoiser, shown, denoiser.noise.anywhen(len(shown), rng), rng)
            return misfit(denoiser, seen, said).mean().item()

    untouched, ascended = (fit(model, concept, keep_weight=0.0, steps=s) for s in (0, 20))
    assert loss(ascended) > 1.05 * loss(untouched)


def test_training_is_the_literal_loop(tiny: Path, shots: Path) -> None:
    """One example at a time, with transformers' encoder, diffusers' scheduler, nothing of ours."""
    pipe = load_pipeline(str(tiny))
    concept = Concept("cat", ("cat",))
    eraser = build("fsu", "paper", pictures=str(shots), steps=4, rate=1e-3)
    patch = eraser.fit(open_pipeline(pipe), concept, Generator().manual_seed(4), quiet)
    clip = copy.deepcopy(pipe.text_encoder).eval()
    names = {e.param.partition("/")[2]: e for e in patch.edits}
    chosen = {n: p for n, p in clip.named_parameters() if n.removeprefix("text_model.") in names}
    assert len(chosen) == len(names)
    rng = Generator().manual_seed(4)
    flips = (torch.rand(3, generator=rng) < 0.5).tolist()
    latents = [coded(pipe, shots / f"{i}.png", flip=flip) for i, flip in enumerate(flips)]
    optimiser = torch.optim.Adam(list(chosen.values()), lr=1e-3)
    for _ in range(4):
        picks = torch.randint(3, (2,), generator=rng).tolist()
        said = [int(torch.randint(3, (1,), generator=rng)) for _ in picks]
        times = torch.randint(1000, (2,), generator=rng)
        noise = torch.randn(2, 4, 8, 8, generator=rng)
        loss = torch.zeros(())
        for i, pick in enumerate(picks):
            phrase = ["cat", "a cat", "a picture of a cat"][said[i]]
            ids = pipe.tokenizer(
                phrase, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            mixed = pipe.scheduler.add_noise(latents[pick], noise[i : i + 1], times[i : i + 1])
            out = pipe.unet(mixed, times[i], clip(ids).last_hidden_state).sample
            loss = loss - (out - noise[i : i + 1]).square().mean() / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    old = dict(pipe.text_encoder.named_parameters())
    for name, new in chosen.items():
        ours = old[name] + names[name.removeprefix("text_model.")].a
        if name.endswith("k_proj.bias"):
            continue  # it shifts all of a query's scores alike: its gradient is round-off
        torch.testing.assert_close(ours, new, rtol=1e-3, atol=2e-5)
        assert (new - old[name]).abs().max() > 1e-4


@torch.no_grad()
def coded(pipe: Any, file: Path, *, flip: bool) -> Tensor:
    """A picture's latent, by diffusers' own preprocessing."""
    picture = Image.open(file).convert("RGB")
    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else picture
    pixels = pipe.image_processor.preprocess(picture, 16, 16)
    found: Tensor = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    return found


def test_kept_prompts_drift_less_when_they_weigh(model: Model) -> None:
    loose, held = (fit(model, steps=20, keep_weight=w) for w in (0.0, 30.0))
    assert held.facts["moved"]["kept"] < 0.5 * loose.facts["moved"]["kept"]
    assert loose.facts["moved"]["kept"] > 0.01


def test_it_stops_at_its_limit(model: Model) -> None:
    limit = 0.5 * fit(model, steps=20, keep_weight=0.0).facts["moved"]["kept"]
    patch = fit(model, steps=20, keep_weight=0.0, most_moved=limit)
    assert 0 < patch.facts["steps"] < 20
    assert patch.facts["moved"]["kept"] <= limit


def test_folder_and_pipeline_give_one_patch(tiny: Path, patch: Patch) -> None:
    other = fit(open_pipeline(load_pipeline(str(tiny))))
    for one, two in zip(patch.edits, other.edits, strict=True):
        assert (one.param, one.reads) == (two.param, two.reads)
        torch.testing.assert_close(one.a, two.a)


def test_killed_fit_gives_the_same_patch(
    tiny: Path, patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(what: str, step: int, of: int) -> None:
        if what == "training" and step == 4:
            raise Killed

    seen = list[int]()
    eraser = build("fsu", **SHORT)
    monkeypatch.setattr(Standing, "due", lambda self: True)
    with pytest.raises(Killed):
        eraser.fit(open_folder(tiny), CONCEPT, Generator().manual_seed(0), kill)
    again = eraser.fit(
        open_folder(tiny),
        CONCEPT,
        Generator().manual_seed(0),
        lambda what, step, of: seen.append(step) if what == "training" and of > 1 else None,
    )
    assert seen[0] == 4, "it began again instead of going on"
    assert contents(again) == contents(patch)


def test_sdxl_trains_both_of_its_encoders(tmp_path: Path) -> None:
    model = open_folder(build_family("sdxl", tmp_path / "sdxl"))
    patch = fit(model, steps=2)
    assert {e.param.partition("/")[0] for e in patch.edits if e.a.any()} == {
        "text_encoder",
        "text_encoder_2",
    }
    erased = open_pipeline(apply(load_pipeline(str(tmp_path / "sdxl")), patch))
    for stream in model.streams:
        now, before = (m.encode(["a cat"], stream).states for m in (erased, model))
        assert (now - before).norm() > 1e-3 * before.norm()


@pytest.mark.parametrize("name", ["sd3", "pixart", "sana"])
def test_other_encoders_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EffaceError, match="trains CLIP text encoders alone"):
        fit(open_folder(build_family(name, tmp_path / name)))


def test_pictures_of_any_size_are_taken(model: Model, shots: Path) -> None:
    one, same = (fit(model, pictures=str(shots)) for _ in range(2))
    assert contents(one) == contents(same)
    assert contents(one) != contents(fit(model))


def test_bad_pictures_are_told_of(model: Model, shots: Path, tmp_path: Path) -> None:
    def refused(match: str, folder: Path = tmp_path) -> None:
        with pytest.raises(EffaceError, match=match):
            fit(model, pictures=str(folder))

    refused("no folder", tmp_path / "nowhere")
    refused("no folder", shots / "0.png")
    refused("holds no picture")
    (tmp_path / "a.png").write_bytes((shots / "0.png").read_bytes()[:200])
    refused(r"a\.png is no whole picture .* take it out")
    (tmp_path / "a.png").write_bytes(b"not a picture")
    refused(r"a\.png is no whole picture")
    Image.new("RGB", (200, 3)).save(tmp_path / "a.png")
    refused(r"a\.png is 200 × 3: .* without a crop")


def test_bad_settings_are_refused(model: Model) -> None:
    wrong: dict[str, Any]
    for wrong in ({"batch": 0}, {"rate": 0.0}, {"steps": -1}, {"keep_weight": -1.0}):
        with pytest.raises(EffaceError, match=next(iter(wrong))):
            build("fsu", **wrong)

"""The emoji world and its recipe, by their rules alone: nothing is downloaded, no cache is read."""

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from recipes.emoji import data
from recipes.emoji.captions import SYNONYMS, article, caption, plain, word_for
from recipes.emoji.data import held_out, icon_names, on_background, slug
from recipes.emoji.denoiser import build
from recipes.emoji.latents import CHANNELS, PATCH, LinearCode, to_patches
from recipes.emoji.resume import Resumable
from recipes.emoji.training import scheduler
from recipes.emoji.world import BACKGROUNDS, NAMES, SIZE, STYLES, THINGS
from recipes.emoji_dit.denoiser import build as build_transformer

PROMISED = """
cat, dog, wolf, horse, bird, fish, octopus, butterfly, snake, spider, red apple, banana, pizza,
hamburger, birthday cake, ice cream, beer mug, wine glass, cocktail glass, bus, bicycle, airplane,
rocket, tractor, sailboat, pistol, bomb, dagger, axe, crossed swords, bow and arrow, cigarette,
skull, church, castle, guitar, violin, rose, sunflower, umbrella, key, hammer, camera,
balloon, crown
"""


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for pictures finds none, and has no npm to get them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")


def count(text: str, words: str) -> int:
    """How often a caption says the words, whole and together."""
    return len(re.findall(rf"(?<![\w-]){re.escape(words)}(?![\w-])", text))


# the world


def test_the_world_holds_what_was_promised() -> None:
    promised = {" ".join(name.split()) for name in PROMISED.split(",")}
    assert len(promised) == 45
    assert promised <= set(NAMES)
    assert len(THINGS) == len(set(NAMES)) == len({t.code for t in THINGS}) >= 100
    assert list(STYLES) == ["noto", "blob", "firefox", "fluent", "flat", "twitter", "emojitwo"]
    assert set(SYNONYMS["pistol"]) >= {"gun", "revolver", "handgun"}
    assert sum(len(t.aka) > 0 for t in THINGS) > len(THINGS) / 2


def test_a_word_means_one_thing() -> None:
    words = Counter(word for t in THINGS for word in {t.name, *t.aka})
    assert not [w for w, n in words.items() if n > 1]
    assert not [t for t in THINGS if len(set(t.aka)) < len(t.aka)]
    words.update([*STYLES, *BACKGROUNDS])
    assert not [w for w, n in words.items() if n > 1], (
        "a style or background is called like a thing"
    )


def test_words_are_plain_english() -> None:
    for thing in THINGS:
        assert all(plain(w) == w for w in (thing.name, *thing.aka))
        assert re.fullmatch(r"[0-9a-f]{4,5}", thing.code)
        assert chr(int(thing.code, 16)).isprintable()


def test_backgrounds_can_be_told_apart() -> None:
    assert len(BACKGROUNDS) >= 8
    colours = np.array(list(BACKGROUNDS.values()), float)
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)) > 30


def test_icons_are_looked_up_by_code_before_name(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = next(t for t in THINGS if t.name == "red apple")
    monkeypatch.setattr(data, "chars", lambda s: {f"{apple.code}-fe0f": f"{s}-apple"})
    monkeypatch.setattr(data, "labels", lambda: {apple.code: "Red Apple!"})
    assert icon_names(apple)[:4] == [
        "noto-apple",
        "fluent-emoji-flat-apple",
        "twemoji-apple",
        "red-apple",
    ]
    assert slug("Bow & Arrow ") == "bow-arrow"


def test_tenth_of_the_pairs_is_held_out() -> None:
    pairs = list(itertools.product(NAMES, STYLES))
    out = [pair for pair in pairs if held_out(*pair)]
    assert len(out) / len(pairs) == pytest.approx(0.1, abs=0.02)
    trained = Counter(name for name, style in pairs if not held_out(name, style))
    assert min(trained[name] for name in NAMES) >= 2
    # Any three sets draw a thing: then too, one style at least is trained.
    assert max(Counter(name for name, _ in out).values()) < len(STYLES) - 2
    assert all(any(held_out(n, s) for n in NAMES) for s in STYLES)
    assert out == [pair for pair in pairs if held_out(*pair)]


# captions


def test_captions_say_what_they_claim() -> None:
    rng = np.random.default_rng(0)
    forms = Counter[str]()
    for thing in THINGS:
        for word in (thing.name, *thing.aka):
            style = str(rng.choice(list(STYLES))) if rng.random() < 0.7 else None
            ground = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.7 else None
            text = caption(word, style, ground, rng)
            forms[text.replace(word, "*")] += 1
            assert count(text, word) == 1, text
            rest = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", "", text)
            told = [s for s in STYLES for _ in range(count(rest, s))]
            assert told == ([style] if style else []), text
            told = [b for b in BACKGROUNDS for _ in range(count(rest, b))]
            assert told == ([ground] if ground else []), text
            assert plain(text.replace(",", "")) == text.replace(",", ""), text
            assert "  " not in text
    assert len(forms) > 100


def test_captions_vary_in_order_and_have_their_articles() -> None:
    rng = np.random.default_rng(1)
    texts = [caption("octopus", "emojitwo", "red", rng) for _ in range(500)]
    assert len(set(texts)) > 200
    before = sum(t.index("red") < t.index("octopus") for t in texts)
    assert 0.05 < before / len(texts) < 0.4
    for text in texts:
        for found, word in re.findall(r"\b(an?) (\w+)", text):
            assert found == article(word), text
    assert len({caption("cat", None, None, rng) for _ in range(200)}) > 20


def test_names_are_used_more_than_synonyms() -> None:
    rng = np.random.default_rng(0)
    used = Counter(word_for("pistol", rng) for _ in range(2000))
    assert set(used) == {"pistol", *SYNONYMS["pistol"]}
    assert used["pistol"] / 2000 == pytest.approx(0.6, abs=0.05)
    assert word_for("wolf", rng) == "wolf"


# pictures and codes


def made_code() -> LinearCode:
    """Random orthonormal components, as the fitted ones are."""
    rng = Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3 * PATCH**2, CHANNELS, generator=rng))[0].T
    return LinearCode(
        basis,
        0.1 * torch.randn(3 * PATCH**2, generator=rng),
        torch.rand(CHANNELS, generator=rng) + 0.5,
    )


def test_linear_code_is_a_projection() -> None:
    code, rng = made_code(), Generator().manual_seed(1)
    z = 0.2 * torch.randn(4, CHANNELS, SIZE // PATCH, SIZE // PATCH, generator=rng)
    drawn = code.decode(z)
    assert drawn.shape == (4, 3, SIZE, SIZE)
    assert drawn.abs().max() < 1, "nothing was clipped"
    torch.testing.assert_close(code.encode(drawn), z, rtol=1e-4, atol=1e-5)
    # Any picture's projection is the nearest that the code can draw: what is left is orthogonal.
    picture = 0.5 * torch.rand(2, 3, SIZE, SIZE, generator=rng) - 0.25
    left = to_patches(picture - code.decode(code.encode(picture)))
    assert torch.einsum("kp,nphw->nkhw", code.basis, left).abs().max() < 1e-5
    assert left.abs().max() > 0.05
    assert code.decode(100 * z).abs().max() == 1


def test_compositing_on_a_background() -> None:
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    assert on_background(rgba, (200, 100, 50)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    rgba[0, 1] = (0, 0, 0, 128)
    assert on_background(rgba, (200, 100, 50))[0, 1] == pytest.approx([99.6, 49.8, 24.9], abs=0.5)


# training


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def begin() -> tuple[Resumable, torch.nn.Linear, torch.optim.Optimizer]:
        model = torch.nn.Linear(3, 2)
        optimiser = torch.optim.AdamW(model.parameters())
        return Resumable(tmp_path / "s.pt", model=model, optimiser=optimiser), model, optimiser

    def teach(model: torch.nn.Linear, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    run, model, optimiser = begin()
    teach(model, optimiser)
    run.step, run.minutes = 1, 0.5
    run.save()
    again, other, its = begin()
    assert (again.step, again.minutes) == (1, 0.5)
    for pair in ((model, optimiser), (other, its)):
        teach(*pair)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]


# the denoiser


def test_scheduler_starts_from_pure_noise_and_ends_at_none() -> None:
    made = scheduler()
    assert made.alphas_cumprod[-1] < 1e-6
    assert made.final_alpha_cumprod == 1
    for steps in (5, 20, 50):
        made.set_timesteps(steps)
        assert made.timesteps[0] == made.config.num_train_timesteps - 1
        assert len(made.timesteps) == steps
    # One step of a perfect v-prediction gives back the picture.
    clean, noise = torch.randn(2, 1, CHANNELS, 8, 8, generator=Generator().manual_seed(0))
    made.set_timesteps(1)
    signal, sigma = (a.sqrt() for a in (made.alphas_cumprod[-1], 1 - made.alphas_cumprod[-1]))
    noisy = signal * clean + sigma * noise
    found = made.step(signal * noise - sigma * clean, made.timesteps[0], noisy).prev_sample
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)


def test_denoiser_reads_text_at_every_level() -> None:
    with torch.device("meta"):
        unet = build()
    assert 15e6 < sum(p.numel() for p in unet.parameters()) < 20e6
    reads = [n for n, _ in unet.named_modules() if n.endswith("attn2")]
    blocks = {n.split(".attentions")[0] for n in reads}
    assert blocks >= {"down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"}


def test_transformer_begins_as_the_identity() -> None:
    with torch.random.fork_rng():
        torch.random.set_rng_state(Generator().manual_seed(0).get_state())
        model = build_transformer()
    assert 10e6 < sum(p.numel() for p in model.parameters()) < 12e6
    rng = Generator().manual_seed(1)
    noise = torch.randn(1, CHANNELS, 8, 8, generator=rng)
    text, mask = torch.randn(1, 4, 256, generator=rng), torch.ones(1, 4)
    seen: list[torch.Tensor] = []
    for block in model.transformer_blocks:
        block.register_forward_hook(lambda _, given, out: seen.extend([given[0], out]))
    with torch.no_grad():
        out = model(
            noise,
            timestep=torch.tensor([500]),
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
        ).sample
    assert len(seen) == 12
    assert seen[0].abs().max() > 0.1
    assert all(torch.equal(states, seen[0]) for states in seen)
    assert not out.any()

"""The view of a model under a patch, and drawing, on real parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Generator, Tensor

from efface.backbones.model import open_folder, open_pipeline
from efface.backbones.pipeline import apply, draw
from efface.core import Case, Concept, Edit, EffaceError, PromptMap, quiet
from efface.linalg import LowRank
from efface.patch import Patch
from tests.equal import bits, hooks, state
from tests.tiny import TOKENS, WIDTH

CONCEPT = Concept("cat", ("cat",))
OUT = "unet/conv_out.weight"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def made(pipe: DiffusionPipeline, *edits: Edit, maps: tuple[PromptMap, ...] = ()) -> Patch:
    return Patch(CONCEPT, {"name": "test"}, open_pipeline(pipe).fingerprint, maps, edits)


def some_map(seed: int = 0) -> PromptMap:
    return PromptMap("text", noise(WIDTH, 3, seed=seed), 0.3 * noise(WIDTH, 3, seed=seed + 50))


@pytest.fixture
def untouched(pipe: DiffusionPipeline) -> Any:
    """Fails a test that leaves a trace on the pipeline."""
    before = state(pipe)
    yield
    assert state(pipe) == before
    assert not any(hooks(m) for m in pipe.unet.modules())


# the view


@pytest.mark.usefixtures("untouched")
def test_view_shares_all_but_what_changed(pipe: DiffusionPipeline) -> None:
    edit = Edit(OUT, "mul", torch.full((1,), 2.0))
    view = apply(pipe, made(pipe, edit, maps=(some_map(),)))
    readers = {n.removeprefix("unet/") for n, _ in open_pipeline(pipe).readers()}
    assert len(readers) == 2 * sum(n.endswith("attn2") for n, _ in pipe.unet.named_modules()) > 0
    before, after = pipe.unet.state_dict(), view.unet.state_dict()
    assert before.keys() == after.keys()
    changed = {n for n in before if before[n].data_ptr() != after[n].data_ptr()}
    assert changed == readers | {"conv_out.weight"}
    assert all(bits(before[n]) != bits(after[n]) for n in changed)
    for name, part in pipe.components.items():
        assert (getattr(view, name) is part) == (name != "unet")
    assert type(view) is type(pipe)
    assert view.config == pipe.config
    assert open_pipeline(view).vocabulary == open_pipeline(pipe).vocabulary
    assert not any(hooks(m) for m in view.unet.modules())


@pytest.mark.usefixtures("untouched")
def test_views_stand_apart(pipe: DiffusionPipeline) -> None:
    one, two = (made(pipe, maps=(some_map(seed),)) for seed in (0, 1))
    both, first = apply(pipe, one, two), apply(pipe, one)
    again = apply(pipe, one)
    assert weights(first) == weights(again) != weights(both)  # dropping `two` reverts it
    assert weights(apply(pipe)) == weights(pipe) != weights(first)
    assert weights(both) != weights(apply(pipe, two, one))
    calls = []
    handle = first.unet.register_forward_hook(lambda *_: calls.append(1))
    predict(pipe, noise(1, TOKENS, WIDTH))
    predict(again, noise(1, TOKENS, WIDTH))
    assert not calls
    predict(first, noise(1, TOKENS, WIDTH))
    assert calls
    handle.remove()


def weights(pipe: DiffusionPipeline) -> dict[str, Any]:
    return {n: bits(t) for n, t in pipe.unet.state_dict().items()}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("edits", "maps", "reason"),
    [
        ([Edit(OUT, "add", torch.ones(9, 9))], [], "conv_out.*9, 9"),
        ([Edit("unet/nothing", "add", torch.ones(1))], [], "no tensor 'unet/nothing'"),
        ([], [PromptMap("t5", torch.ones(WIDTH, 1), torch.ones(WIDTH, 1))], "no text stream 't5'"),
        ([], [PromptMap("text", torch.ones(7, 1), torch.ones(7, 1))], "rows of 7"),
        ([Edit(OUT, "mul", torch.full((1,), 1e38))] * 2, [], "leaves the range"),
    ],
    ids=["shape", "name", "stream", "width", "overflow"],
)
def test_patch_that_does_not_fit_changes_nothing(
    pipe: DiffusionPipeline, edits: list[Edit], maps: list[PromptMap], reason: str
) -> None:
    good = Edit("unet/conv_in.weight", "mul", torch.full((1,), 2.0))
    with pytest.raises(EffaceError, match=reason):
        apply(pipe, made(pipe, good, *edits, maps=tuple(maps)))


@pytest.mark.usefixtures("untouched")
def test_nothing_remains_when_drawing_fails(pipe: DiffusionPipeline) -> None:
    def stop(what: str, step: int, of: int) -> None:
        raise KeyboardInterrupt

    view = apply(pipe, made(pipe, maps=(some_map(),)))
    for one in (pipe, view):
        with pytest.raises(KeyboardInterrupt):
            draw(one, [Case("cat", 0, steps=2)], stop)
        assert not any(hooks(m) for m in one.unet.modules())


def predict(pipe: DiffusionPipeline, rows: Tensor) -> Tensor:
    side = pipe.unet.config.sample_size
    with torch.no_grad():
        return pipe.unet(noise(len(rows), 4, side, side), 300, rows.float()).sample


@pytest.mark.usefixtures("untouched")
def test_baking_a_map_is_mapping_the_rows(pipe: DiffusionPipeline) -> None:
    mapping = some_map()
    rows = open_pipeline(pipe).encode(["a cat", "house", ""]).states
    baked = predict(apply(pipe, made(pipe, maps=(mapping,))), rows)
    mapped = predict(pipe, LowRank(mapping.a, mapping.b).apply(rows.flatten(0, 1)).view_as(rows))
    scale = mapped.abs().max()
    assert (baked - mapped).abs().max() < 1e-5 * scale
    assert (baked - predict(pipe, rows)).abs().max() > 1e-2 * scale


def test_merging_is_done_in_float64(pipe: DiffusionPipeline) -> None:
    mapping = some_map()
    view = apply(pipe, made(pipe, maps=(mapping,)))
    dense = LowRank(mapping.a, mapping.b).dense()
    after = dict(open_pipeline(view).readers())
    for name, old in open_pipeline(pipe).readers():
        assert torch.equal(after[name], (old.detach().double() @ dense).float())


# drawing


def far(one: Image, other: Image) -> int:
    """The largest difference of two pictures, in levels of 255."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def test_picture_depends_on_its_own_case_alone(pipe: DiffusionPipeline) -> None:
    cases = [Case(p, s, steps=3) for p in ("cat", "a house", "") for s in (0, 1)]
    cases += [Case("cat", 0, steps=4), Case("cat", 0, steps=3, guidance=1.0)]
    together = draw(pipe, cases, quiet)
    alone = [draw(pipe, [case], quiet)[0] for case in cases]
    backwards = draw(pipe, cases[::-1], quiet, batch=2)[::-1]
    for i in range(len(cases)):
        assert far(together[i], alone[i]) <= 1
        assert far(together[i], backwards[i]) <= 1
        assert all(far(together[i], together[j]) > 8 for j in range(i))  # all cases differ
    assert [far(a, b) for a, b in zip(draw(pipe, cases, quiet), together, strict=True)] == [0] * 8


def test_soft_prompt_of_own_rows_is_the_prompt(pipe: DiffusionPipeline) -> None:
    rows = open_pipeline(pipe).encode(["cat", "a house"]).states
    words = [Case("cat", 5, steps=3), Case("a house", 6, steps=3)]
    soft = [Case("", c.seed, c.steps, embeds=r) for c, r in zip(words, rows, strict=True)]
    for drawn, meant in zip(
        draw(pipe, [*words, *soft], quiet)[2:], draw(pipe, words, quiet), strict=True
    ):
        assert far(drawn, meant) <= 1
    other = draw(pipe, [Case("", 5, 3, embeds=rows[1])], quiet)[0]
    assert far(other, draw(pipe, words[:1], quiet)[0]) > 8


def test_soft_prompts_of_several_lengths(pipe: DiffusionPipeline) -> None:
    rows = open_pipeline(pipe).encode(["cat"]).states[0]
    cases = [Case("", 5, 3, embeds=rows), Case("", 5, 3, embeds=rows[:5]), Case("cat", 5, 3)]
    long, short, word = draw(pipe, cases, quiet)
    assert far(long, word) <= 1
    assert far(short, word) > 8


def test_start_picture_is_not_ignored(pipe: DiffusionPipeline) -> None:
    with pytest.raises(EffaceError, match=r"start.*x\.png"):
        draw(pipe, [Case("cat", 0, start=Path("x.png"))], quiet)


def test_drawing_reports_progress(pipe: DiffusionPipeline) -> None:
    steps: list[tuple[int, int]] = []
    cases = [Case("cat", s, steps=2) for s in range(3)] + [Case("cat", 0, steps=3)]
    draw(pipe, cases, lambda _, step, of: steps.append((step, of)), batch=2)
    assert steps[-1] == (9, 9)
    assert steps == sorted(steps)


# one model, two ways in


def same(one: Any, other: Any) -> None:
    """Both read the same numbers."""
    assert one.fingerprint == other.fingerprint
    assert one.vocabulary == other.vocabulary == ("cat", "dog", "house", "tree")
    assert [(n, bits(w)) for n, w in one.readers()] == [(n, bits(w)) for n, w in other.readers()]
    assert bits(one.gram()) == bits(other.gram())
    words = ["cat", "a much longer prompt that has to be cut off somewhere", ""]
    for a, b in zip(one.encode(words)[:4], other.encode(words)[:4], strict=True):
        assert bits(a) == bits(b)
    [here], [there] = one.ellipsoids(), other.ellipsoids()
    assert [bits(t) for t in here[:2]] == [bits(t) for t in there[:2]]


def test_folder_and_pipeline_are_one_model(tiny: Path, pipe: DiffusionPipeline) -> None:
    same(open_folder(tiny), open_pipeline(pipe))


def test_encoding_is_the_pipelines_own(pipe: DiffusionPipeline) -> None:
    words = ["cat", "a house", ""]
    theirs, empty = pipe.encode_prompt(words, "cpu", 1, True)
    ours = open_pipeline(pipe).encode(words)
    torch.testing.assert_close(ours.states, theirs)
    torch.testing.assert_close(ours.states[2], empty[0])
    assert ours.last.tolist() == [[1], [2], [0]]
    assert ours.spoken.tolist() == [True, True, False]
    # One prompt's rows are the same in any company.
    torch.testing.assert_close(open_pipeline(pipe).encode(["a house"]).states[0], ours.states[1])


def test_rows_lie_on_the_ellipsoid(pipe: DiffusionPipeline) -> None:
    model = open_pipeline(pipe)
    [(axes, shift, radius2, solid)] = model.ellipsoids()
    rows = model.encode(["cat", "a house"]).states.double().flatten(0, 1) - shift
    z = torch.linalg.lstsq(axes, rows.T).solution
    torch.testing.assert_close(axes @ z, rows.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        z.square().sum(0), torch.full((2 * TOKENS,), radius2).double(), rtol=1e-3, atol=0
    )
    assert not solid


def test_unknown_stream_is_refused(pipe: DiffusionPipeline) -> None:
    model = open_pipeline(pipe)
    asked: list[Callable[[], object]] = [
        lambda: model.encode(["cat"], "t5"),
        lambda: model.gram("t5"),
        lambda: model.ellipsoids("t5"),
        lambda: list(model.readers("t5")),
    ]
    for ask in asked:
        with pytest.raises(EffaceError, match="no text stream 't5'"):
            ask()

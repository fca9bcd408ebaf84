"""Every family: text is read as its own pipeline reads it, and maps do what mapped rows do."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import efface
from efface.backbones.model import open_folder, open_pipeline
from efface.backbones.pipeline import apply, draw, load_pipeline
from efface.core import Case, Concept, EffaceError, Encoded, PromptMap, quiet
from efface.export import export_folder
from efface.linalg import LowRank
from efface.patch import Patch
from tests.equal import bits
from tests.families import NAMES, build_family

PROMPTS = ["cat", "a house of cats"]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family(request.param, tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load_pipeline(str(folder))


@pytest.fixture(scope="module")
def patches(folder: Path) -> dict[str, Patch]:
    keep = ["house", "dog"]
    return {
        "uce": efface.erase(folder, "cat", method="uce", keep=keep),
        "rece": efface.erase(folder, "cat", epochs=1, keep=keep),
        "tensor": efface.erase(folder, "cat", method="uce", technique="tensor", keep=keep),
    }


def handed_over(pipe: Any, prompts: list[str]) -> tuple[Tensor, Tensor | None, Any]:
    """What the pipeline's own `encode_prompt` gives its denoiser: rows, pooled rows, mask."""
    kind, call = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    with torch.no_grad():
        if kind == "StableDiffusionPipeline":
            return pipe.encode_prompt(prompts, "cpu", 1, False)[0], None, None
        if kind == "StableDiffusionXLPipeline":
            rows, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
            return rows, pooled, None
        if kind == "StableDiffusion3Pipeline":
            found = pipe.encode_prompt(prompts, prompts, prompts, do_classifier_free_guidance=False)
            return found[0], found[2], None
        if kind == "FluxPipeline":
            rows, pooled, _ = pipe.encode_prompt(prompts, prompts)
            return rows, pooled, None
        options = {}
        if "complex_human_instruction" in call:
            options["complex_human_instruction"] = call["complex_human_instruction"].default
        rows, mask, *_ = pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, clean_caption=False, **options
        )
        return rows, None, mask


def test_rows_are_what_the_pipeline_hands_over(folder: Path, pipe: Any) -> None:
    rows, pooled, mask = handed_over(pipe, PROMPTS)
    for model in (open_folder(folder), open_pipeline(pipe)):
        found = model.encode(PROMPTS)
        torch.testing.assert_close(found.states, rows)
        if mask is not None:
            assert found.ends[:, 0].tolist() == mask.sum(1).tolist() != [rows.shape[1]] * 2
        else:
            assert found.ends[:, -1].tolist() == [rows.shape[1]] * 2
        assert ("pooled" in model.streams) == (pooled is not None)
        if pooled is not None:
            torch.testing.assert_close(model.encode(PROMPTS, "pooled").states[:, 0], pooled)
        assert found.spoken.all()
        assert not model.encode([""]).spoken.any()


def test_folder_and_pipeline_are_one_model(folder: Path, pipe: Any) -> None:
    one, other = open_folder(folder), open_pipeline(pipe)
    assert one.fingerprint == other.fingerprint
    assert "text" not in vars(one)  # neither tokenizer nor encoder was needed
    assert one.streams == other.streams
    for stream in one.streams:
        read = [(n, bits(w)) for n, w in one.readers(stream)]
        assert read == [(n, bits(w)) for n, w in other.readers(stream)] != []
        assert bits(one.gram(stream)) == bits(other.gram(stream))


def test_the_last_word_is_the_last_that_changes_meaning(pipe: Any) -> None:
    """Up to the last word of "a" rows of causal encoders agree with those of "a house"."""
    model = open_pipeline(pipe)
    both: Encoded = model.encode(["a", "a house"])
    assert (both.last[1] > both.last[0]).all()
    assert (both.last < both.ends).all()


def test_rows_lie_where_the_certificate_looks(pipe: Any) -> None:
    model = open_pipeline(pipe)
    for stream in model.streams:
        found = model.encode(PROMPTS, stream)
        spans = [*found.starts, found.states.shape[1]]
        for (axes, shift, radius2, solid), start, stop in zip(
            model.ellipsoids(stream), spans[:-1], spans[1:], strict=True
        ):
            first = start + (solid and stop > start + 1)  # the start token is never a choice
            rows = found.states[:, first:stop].double().flatten(0, 1) - shift
            z = torch.linalg.lstsq(axes, rows.T).solution
            torch.testing.assert_close(axes @ z, rows.T, atol=1e-4, rtol=1e-4)
            length = z.square().sum(0)
            assert (length <= radius2 * (1.5 if solid else 1 + 1e-4)).all()
            assert solid or length.min() > 0.98 * radius2


def latents(pipe: Any, rows: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Tensor:
    """What two steps without guidance make of given rows."""
    given: dict[str, Any] = {"prompt_embeds": rows}
    if pooled is not None:
        given["pooled_prompt_embeds"] = pooled
    if mask is not None:
        side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        given |= {"prompt_attention_mask": mask, "use_resolution_binning": False}
        given |= {"negative_prompt": None, "height": side, "width": side}
    else:
        given |= {"height": 16, "width": 16}
    if type(pipe).__name__ == "SanaPipeline":
        del given["negative_prompt"]
    with torch.no_grad():
        found: Tensor = pipe(
            **given,
            num_inference_steps=2,
            guidance_scale=1.0,
            output_type="latent",
            generator=[torch.Generator().manual_seed(i) for i in range(len(rows))],
        ).images
    return found


def test_baking_a_map_is_mapping_the_rows_end_to_end(pipe: Any) -> None:
    model = open_pipeline(pipe)
    rows, pooled, mask = handed_over(pipe, PROMPTS)
    maps = []
    for stream in model.streams:
        width = model.encode(["cat"], stream).states.shape[2]
        a, b = (
            torch.randn(width, 3, generator=torch.Generator().manual_seed(s)) * width**-0.5
            for s in (1, 2)
        )
        maps.append(PromptMap(stream, 2 * a, b))
    patch = Patch(Concept("cat", ("cat",)), {"name": "test"}, model.fingerprint, tuple(maps))
    on = {m.encoder: LowRank(m.a, m.b) for m in maps}
    mapped = on["text"].apply(rows.flatten(0, 1)).view_as(rows).float()
    point = None if pooled is None else on["pooled"].apply(pooled).float()
    baked = latents(apply(pipe, patch), rows, pooled, mask)
    hooked = latents(pipe, mapped, point, mask)
    scale = hooked.abs().max()
    assert (baked - hooked).abs().max() < 1e-4 * scale
    assert (baked - latents(pipe, rows, pooled, mask)).abs().max() > 1e-3 * scale
    if pooled is not None:  # each stream counts by itself
        assert (hooked - latents(pipe, mapped, pooled, mask)).abs().max() > 1e-4 * scale


def test_biases_are_counted_once(pipe: Any, folder: Path) -> None:
    """A matrix with a bias turns an erased row into what it makes of the goal, bias and all."""
    patch = efface.erase(folder, "cat", method="uce", keep=[], keep_weight=0.0, ridge=1e-7)
    model, view = open_pipeline(pipe), apply(pipe, patch)
    for name, reader in model.where.items():
        site = name.removeprefix(f"{model.component}/").removesuffix(".weight")
        before = getattr(pipe, model.component).get_submodule(site)
        after = getattr(view, model.component).get_submodule(site)
        assert (before.bias is None) == (model.kind.name == "sd" or "attn2" in name)
        source, target = (model.encode([p], reader.stream) for p in ("cat", ""))
        row = source.states[0, source.last[0, 0]]
        goal = target.states[0, target.last[0, 0]]
        spare = torch.zeros(before.in_features - len(row))
        with torch.no_grad():
            wanted, was, became = (
                layer(torch.cat([x, spare]))
                for layer, x in ((before, goal), (before, row), (after, row))
            )
        assert (became - wanted).norm() < 0.02 * (was - wanted).norm()
        if before.bias is not None:
            assert (became + before.bias - wanted).norm() > 0.02 * (was - wanted).norm()


@pytest.mark.parametrize("method", ["uce", "rece", "tensor"])
def test_erased_saved_loaded_exported(
    method: str, folder: Path, pipe: Any, patches: dict[str, Patch], tmp_path: Path
) -> None:
    patches[method].save(tmp_path / "p.safetensors")
    patch = efface.load(tmp_path / "p.safetensors")
    streams = open_folder(folder).streams
    assert method == "tensor" or tuple(m.encoder for m in patch.maps) == streams
    view = apply(pipe, patch)
    model = open_pipeline(pipe)
    new = dict(getattr(view, model.component).named_parameters())
    old = dict(getattr(pipe, model.component).named_parameters())
    changed = {n for n in old if not torch.equal(old[n], new[n])}
    assert changed == {n.removeprefix(f"{model.component}/") for n in model.where}
    export_folder(folder, [patch], tmp_path / "out", quiet)
    out = dict(getattr(load_pipeline(str(tmp_path / "out")), model.component).named_parameters())
    assert {n: bits(t) for n, t in out.items()} == {n: bits(t) for n, t in new.items()}


def test_pictures_change_and_come_back(pipe: Any, patches: dict[str, Patch]) -> None:
    case = [Case("cat", 3, steps=2, guidance=2.0)]
    before, after, again = (
        np.asarray(draw(one, case, quiet)[0], int)
        for one in (pipe, apply(pipe, patches["rece"]), apply(pipe))
    )
    assert np.abs(before - after).max() > 2
    assert (before == again).all()


def test_facts_name_the_weakest_stream(folder: Path, patches: dict[str, Patch]) -> None:
    facts = patches["rece"].facts
    if len(open_folder(folder).streams) == 1:
        assert "streams" not in facts
        return
    each = facts["streams"]
    assert facts["certificate"]["min"] == min(f["certificate"]["min"] for f in each.values())
    assert facts["drift"] == max(f["drift"] for f in each.values())


def test_soft_prompts_of_many_streams_are_refused(pipe: Any) -> None:
    model = open_pipeline(pipe)
    case = Case("", 0, 2, embeds=model.encode(["cat"]).states[0])
    if model.kind.name == "sd":
        assert len(draw(pipe, [case], quiet)) == 1
        return
    with pytest.raises(EffaceError, match="one CLIP text encoder"):
        draw(pipe, [case], quiet)

"""FID, KID and CMMD against Gaussians whose distances are known in closed form."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efface import metrics
from efface.backbones.checkpoint import resolve
from efface.backbones.features import extractor
from efface.core import Case, EffaceError, Row, Verdict
from efface.distances import CMMD_SCALE, CMMD_SIGMA, cmmd, fid, kid
from tests.looks import build_classifier, build_clip, noise


def exact(mean: np.ndarray, spread: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A sample with exactly this mean and exactly this covariance."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(raw, rowvar=False)))).T
    return whitened @ np.linalg.cholesky(spread).T + mean


def spread(width: int, seed: int) -> np.ndarray:
    half = np.random.default_rng(seed).standard_normal((width, width))
    return half @ half.T + np.eye(width)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_fid_of_gaussians(width: int) -> None:
    # Commuting covariances: the trace term is |Σ₁^½ − Σ₂^½|².
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))
    one, other = np.arange(1.0, width + 1), np.linspace(3, 0.5, width)
    apart = np.linspace(-1, 2, width)
    wanted = (apart**2).sum() + ((np.sqrt(one) - np.sqrt(other)) ** 2).sum()
    first = exact(np.zeros(width), turn @ np.diag(one) @ turn.T, 40, 1)
    second = exact(apart, turn @ np.diag(other) @ turn.T, 50, 2)
    assert fid(first, second) == pytest.approx(wanted, rel=1e-9)


def test_fid_is_a_distance() -> None:
    one = exact(np.zeros(3), spread(3, 0), 30, 0)
    other = exact(np.ones(3), spread(3, 1), 30, 1)
    assert fid(one, one) == pytest.approx(0, abs=1e-9)
    assert fid(one, other) == pytest.approx(fid(other, one), rel=1e-9)
    assert fid(one, other) > 0


def test_cmmd_of_gaussians() -> None:
    width, one, other, shift = 3, 4.0, 6.0, 5.0
    rng = np.random.default_rng(0)
    first = rng.standard_normal((1500, width)) * one
    second = rng.standard_normal((1500, width)) * other + shift

    def mean(a: float, b: float, apart: float) -> float:
        total = CMMD_SIGMA**2 + a**2 + b**2
        return float((CMMD_SIGMA**2 / total) ** (width / 2) * np.exp(-apart / (2 * total)))

    wanted = mean(one, one, 0) + mean(other, other, 0) - 2 * mean(one, other, width * shift**2)
    assert cmmd(first, second) == pytest.approx(CMMD_SCALE * wanted, rel=0.1)


def test_kid_of_gaussians() -> None:
    one, other, shift = 1.0, 1.5, 0.8
    rng = np.random.default_rng(0)
    first = rng.standard_normal((2000, 1)) * one
    second = rng.standard_normal((2000, 1)) * other + shift

    def moments(mean: float, deviation: float) -> list[float]:
        return [
            1,
            mean,
            mean**2 + deviation**2,
            mean**3 + 3 * mean * deviation**2,
        ]

    def mean(a: list[float], b: list[float]) -> float:
        return float(sum(c * x * y for c, x, y in zip((1, 3, 3, 1), a, b, strict=True)))

    p, q = moments(0, one), moments(shift, other)
    wanted = mean(p, p) + mean(q, q) - 2 * mean(p, q)
    assert kid(first, second) == pytest.approx(wanted, rel=0.2)


def test_kid_is_unbiased() -> None:
    rng = np.random.default_rng(3)
    draws = [kid(rng.standard_normal((8, 2)), rng.standard_normal((8, 2))) for _ in range(500)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / len(draws) ** 0.5
    assert min(draws) < 0 < max(draws)


def test_too_few_pictures_are_refused() -> None:
    for distance in (fid, kid, cmmd):
        with pytest.raises(ValueError, match="at least two"):
            distance(np.zeros((1, 3)), np.zeros((5, 3)))


@pytest.fixture(scope="module")
def judge() -> Path:
    return resolve("emoji") / "judges" / "tuning"


def kept(folder: Path, shift: int) -> list[Row]:
    """Rows of what must stay, their pictures in the folder."""
    found = []
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 200, (64, 64, 3), dtype=np.uint8)
        name = Path(f"{seed}-{shift}.png")
        Image.fromarray(pixels + np.uint8(shift)).save(folder / name)
        case = Case("a dog", seed)
        found.append(Row(case, case, 0, name, Verdict(1.0, True), None, "kept"))
    return found


@pytest.mark.parametrize("name", ["fid", "kid", "cmmd", "picture-change"])
def test_metrics_of_pictures(name: str, judge: Path, tmp_path: Path) -> None:
    metric = metrics.build(name, run=str(tmp_path), extractor=str(judge))
    rows, other = kept(tmp_path, 0), kept(tmp_path, 50)
    assert metric([], []).value is None
    alike, apart = metric(rows, rows), metric(other, rows)
    assert alike.value is not None
    assert apart.value is not None
    assert apart.value > alike.value
    assert metric(other[::-1], rows).value == pytest.approx(apart.value, rel=1e-6)
    assert (apart.n, metric(other, rows[:3]).skipped) == (4, 1)
    if name in ("fid", "cmmd", "picture-change"):
        assert alike.value == pytest.approx(0, abs=1e-4)


def test_distance_from_a_folder_of_pictures(judge: Path, tmp_path: Path) -> None:
    rows, other = kept(tmp_path, 0), kept(tmp_path, 50)
    for each in other:
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / str(each.image)).rename(tmp_path / "photos" / str(each.image))
    given = {"run": str(tmp_path), "extractor": str(judge), "reference": str(tmp_path / "photos")}
    found = metrics.build("kid", **given)(rows, [])
    extract = extractor(judge)
    pictures = [
        [Image.open(p) for p in sorted(f.glob("*.png"))] for f in (tmp_path, tmp_path / "photos")
    ]
    assert found.value == pytest.approx(kid(*(extract(p) for p in pictures)), rel=1e-6)
    assert (found.n, found.skipped) == (4, 0)
    assert metrics.build("kid", **given, of_base=True)([], rows).value == found.value
    empty = given | {"reference": str(tmp_path / "nowhere")}
    with pytest.raises(EffaceError, match="holds 0 pictures"):
        metrics.build("kid", **empty)(rows, [])


def test_clip_score_is_the_mean_of_the_cosines(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    clip = build_clip(tmp_path / "clip", seed=3)
    rows = kept(tmp_path, 0)
    rows = [replace(row, root=Case(f"a dog on {i} cats", i)) for i, row in enumerate(rows)]
    metric = metrics.build("clip-score", run=str(tmp_path), clip=str(clip))
    pictures = [Image.open(tmp_path / str(row.image)) for row in rows]
    texts = AutoTokenizer.from_pretrained(clip)(
        [row.root.prompt for row in rows], return_tensors="pt", padding=True, truncation=True
    )
    pixels = AutoImageProcessor.from_pretrained(clip)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        told = CLIPModel.from_pretrained(clip)(**texts, **pixels)
    cosines = (told.image_embeds * told.text_embeds).sum(1)
    found = metric(rows[::-1], [])
    assert found.value == pytest.approx(100 * cosines.clamp(min=0).mean().item(), abs=1e-3)
    assert found.value is not None
    assert found.value > 0
    assert found.n == 4
    lost = [*rows, replace(rows[0], image=None, error="lost")]
    assert (metric(lost, []).n, metric(lost, []).skipped) == (4, 1)
    assert metric([], rows).value is None
    other = metrics.build("clip-score", run=str(tmp_path), clip=str(clip), of_base=True)
    assert other([], rows).value == found.value
    none = metrics.build("clip-score", run=str(tmp_path), clip=str(clip), kind="none")
    assert none(rows, []).value is None


def test_features_of_any_image_model(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, CLIPModel, ViTModel

    folder = build_classifier(tmp_path / "vit", ("a", "b"))
    read = AutoImageProcessor.from_pretrained(folder)(images=noise(3), return_tensors="pt")
    headless = ViTModel.from_pretrained(folder, add_pooling_layer=True)
    headless.save_pretrained(folder)
    with torch.no_grad():
        wanted = headless(**read).pooler_output
    assert np.allclose(extractor(folder)(noise(3)), wanted, atol=1e-5)
    clip = build_clip(tmp_path / "clip")
    read = AutoImageProcessor.from_pretrained(clip)(images=noise(3), return_tensors="pt")
    with torch.no_grad():
        model = CLIPModel.from_pretrained(clip)
        rows = model.visual_projection(model.vision_model(**read).pooler_output)
    wanted = torch.nn.functional.normalize(rows, dim=1)
    assert np.allclose(extractor(clip)(noise(3)), wanted, atol=1e-5)


def test_features_are_what_the_last_layer_reads(judge: Path, tmp_path: Path) -> None:
    extract = extractor(judge)
    pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "white")]
    found = extract(pictures)
    assert found.shape[0] == 3
    assert np.allclose(found[1:], extract(pictures[1:]), atol=1e-5)
    with pytest.raises(EffaceError, match="no image model"):
        extractor(tmp_path)

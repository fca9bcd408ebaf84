"""One real audit of the tiny model for all tests of reports."""

from pathlib import Path

import pytest
import torch

from tests.report.folders import LABELS


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random image classifier that knows the tiny model's words."""
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("report-judge") / "tiny"
    names = {i: f"concept:{label}" for i, label in enumerate(LABELS)}
    with torch.random.fork_rng():
        model = ViTForImageClassification(
            ViTConfig(
                image_size=64,
                patch_size=16,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                id2label=names,
                label2id={name: i for i, name in names.items()},
            )
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def audited(
    tiny: Path, tiny_patch: Path, tiny_judge: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run's folder as `efface audit` leaves it; read it, copy it, never write into it."""
    from efface.audit import Settings, audit

    out = tmp_path_factory.mktemp("audited") / "run"
    asked = Settings(
        ("casing",), count=2, steps=2, detector=(str(tiny_judge),), precision="float32"
    )
    audit(str(tiny), str(tiny_patch), out, asked, lambda what, step, of: None)
    return out

"""The recovery curve: what it costs, in norm, to bring each judged row back through the patch."""

import io
from pathlib import Path
from typing import Any

import torch

from efface.backbones.model import Model
from efface.certificate import Recovery, recovery_curve
from efface.cli import show
from efface.core import EffaceError, OnStep, same_base
from efface.facts import Ruler
from efface.linalg import LowRank
from efface.output import write_whole
from efface.patch import Patch

RIDGES = torch.logspace(-8, 2, 41, dtype=torch.float64).tolist()
"""Regularisers swept, as shares of the mean eigenvalue of G."""


def draw_curve(patch: Patch, model: Model, path: Path, on_step: OnStep) -> None:
    """Write the plot as PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EffaceError("plots need matplotlib: pip install efface[report]") from error
    curve = measure_curve(patch, model, on_step)
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        title=show.one_line(f"recovering {patch.concept.name}").replace("$", r"\$"),
        xlabel="norm of the embedding / norm of the concept's row",
        ylabel="what stays lost (0 is full recovery)",
        xscale="log",
        yscale="log",
    )
    axes.plot(curve.norm.numpy(), curve.residual.numpy(), color="tab:blue", alpha=0.25, lw=0.8)
    axes.plot(curve.norm.median(1).values, curve.residual.median(1).values, color="black", lw=2)
    axes.axvline(1, color="tab:red", ls=":")
    foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "right", "va": "bottom"}
    axes.text(0.97, 0.03, "norm of real text", color="tab:red", rotation=90, **foot)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    write_whole(path, data.getvalue())


def measure_curve(patch: Patch, model: Model, on_step: OnStep) -> Recovery:
    """Residual and norm of every judged row of the concept, one line a regulariser."""
    maps = [m for m in patch.maps if m.encoder == "text"]
    if len(maps) != 1 or patch.edits:
        raise EffaceError("the curve is of one prompt map: this patch holds other edits")
    [only] = maps
    on_step("encoding prompts", 0, 2)
    if not same_base(patch.base, model.fingerprint):
        raise EffaceError(
            f"this patch was fitted on base {patch.base} but the model is {model.fingerprint}: "
            "give the model it was made for"
        )
    edit, ruler = LowRank(only.a, only.b), Ruler(model, patch.concept)
    gram, pairs = ruler.gram, ruler.judged
    if len(gram) != len(only.a):
        raise EffaceError(
            f"the patch maps rows of {len(only.a)}, the model has rows of {len(gram)}"
        )
    judged = ruler.certificate(edit).rows
    on_step("sweeping", 1, 2)
    scale = gram.diagonal().mean().item()
    return recovery_curve(edit, gram, pairs.rows[judged], [r * scale for r in RIDGES])

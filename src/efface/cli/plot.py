"""The recovery curve: what it costs, in norm, to bring each judged row back through the patch."""

import io
from pathlib import Path
from typing import Any

from efface.backbones.model import Model
from efface.certificate import Recovery
from efface.cli import show
from efface.core import EffaceError, OnStep
from efface.curves import along_norm, only_map
from efface.facts import Ruler
from efface.output import write_whole
from efface.patch import Patch


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
    """The recovery curve of a patch that is one map."""
    full = only_map(patch)
    if full is None:
        raise EffaceError("the curve is of one prompt map: this patch holds other edits")
    on_step("encoding prompts", 0, 2)
    ruler = Ruler(model, patch.concept)
    on_step("sweeping", 1, 2)
    return along_norm(patch, full, model, ruler)

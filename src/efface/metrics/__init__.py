"""Rows to estimates. Each metric is one file; nothing is imported until it is asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from efface.registry import Registry

if TYPE_CHECKING:
    from efface.core import Estimate, Row


@runtime_checkable
class Metric(Protocol):
    """A frozen dataclass whose fields say what of the rows is measured."""

    def __call__(self, rows: "Sequence[Row]", base: "Sequence[Row]") -> "Estimate":
        """From the rows of a run and those of the base model, in any order."""


REGISTRY = {
    "quality": "efface.metrics.quality:Quality",
    "base-rate": "efface.metrics.attack_rate:BaseRate",
    "pre-asr": "efface.metrics.attack_rate:PreRate",
    "asr": "efface.metrics.attack_rate:AttackRate",
    "excess": "efface.metrics.excess:Excess",
    "ua": "efface.metrics.accuracy:Unlearned",
    "ira": "efface.metrics.accuracy:Retained",
    "cra": "efface.metrics.accuracy:RetainedAcross",
    "harmonic": "efface.metrics.harmonic:Harmonic",
    "change": "efface.metrics.paired:Change",
    "mcnemar": "efface.metrics.paired:McNemar",
    "pictures": "efface.metrics.cost:Pictures",
    "denoiser-calls": "efface.metrics.cost:DenoiserCalls",
    "fid": "efface.metrics.pictures:FID",
    "kid": "efface.metrics.pictures:KID",
    "cmmd": "efface.metrics.pictures:CMMD",
    "picture-change": "efface.metrics.pictures:PictureChange",
    "clip-score": "efface.metrics.clip_score:ClipScore",
    "queries-to-hit": "efface.metrics.cost:QueriesToHit",
}
"""Metric name -> module:class."""

_ALL = Registry[Metric]("metric", "efface.metrics", REGISTRY)
names, find, build = _ALL.names, _ALL.find, _ALL.build

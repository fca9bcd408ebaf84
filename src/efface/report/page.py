"""The report as one HTML file: no script, no font, no address; it opens without a network."""

import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from efface import __version__
from efface.core import EffaceError, Row
from efface.report import words
from efface.report.chart import Chart
from efface.report.collateral import Moved
from efface.report.curves import query_curves, recovery_curve, strength_curve, threshold_curve
from efface.report.evidence import Evidence
from efface.report.limits import NEEDS, limits
from efface.report.pictures import Card, concept_cards, damaged, hits, kept_cards
from efface.report.verdict import RULES, deciding, surest


class Part(NamedTuple):
    """What the template shows of one run."""

    found: Evidence
    blurred: bool
    worst: Mapping[str, Any] | None
    concept_cards: Sequence[Card]
    kept_cards: Sequence[Card]
    queries: Sequence[Chart]
    threshold: Chart | None
    measured: Sequence[Chart]
    hits: Sequence[Row]
    damaged: Sequence[Moved]
    facts: Mapping[str, Any]
    settings: Sequence[tuple[str, str]]
    command: str | None
    limits: Sequence[str]


def page(evidence: Sequence[Evidence], *, blurred: bool) -> str:
    """All runs on one page; `blurred`: pictures of the erased concept are, until asked for."""
    whole: str = _template().render(
        parts=[_part(found, blurred) for found in evidence],
        title=_title(evidence),
        css=_markup((files(__package__) / "page.css").read_text(encoding="utf-8")),
        version=__version__,
        rules=RULES,
        needs=NEEDS,
    )
    return whole


def _title(evidence: Sequence[Evidence]) -> str:
    if len(evidence) > 1:
        return f"{len(evidence)} audits of erased models"
    [only] = evidence
    return f"“{only.erased}” erased from {only.model} by {only.eraser}"


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise EffaceError("the page needs jinja2: pip install efface[report]") from error
    place = Environment(
        loader=PackageLoader("efface", "report"), autoescape=True, undefined=StrictUndefined
    )
    place.filters |= {
        name: getattr(words, name) for name in ("percent", "interval", "share", "points", "count")
    }
    return place.get_template("page.html.j2")


def _markup(text: str) -> Any:
    """Our own style sheet, which is not escaped."""
    from markupsafe import Markup

    return Markup(text)


def _part(found: Evidence, blurred: bool) -> Part:
    return Part(
        found,
        blurred,
        worst(found),
        concept_cards(found),
        kept_cards(found),
        query_curves(found),
        threshold_curve(found),
        [c for c in (strength_curve(found), recovery_curve(found)) if c is not None],
        hits(found),
        damaged(found.moved),
        facts(found),
        settings(found),
        command(found),
        limits(found),
    )


def worst(found: Evidence) -> Mapping[str, Any] | None:
    """The line of the attack whose rate is surely highest, of those that decide the verdict."""
    lines = deciding(found.table)
    return surest(lines) if lines else None


def facts(found: Evidence) -> Mapping[str, Any]:
    """Certificate and drift as the patch told them; None where it did not."""
    told = found.patch.get("facts") or {}
    streams = told.get("streams") or {}
    return {
        "certificate": _certificate(told),
        "drift": told.get("drift"),
        "streams": [(n, _certificate(f), f.get("drift")) for n, f in streams.items()],
    }


def _certificate(told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    known = told.get("certificate")
    if not isinstance(known, Mapping) or not isinstance(known.get("min"), int | float):
        return None
    return {key: known.get(key) for key in ("min", "mean", "rows")}


def settings(found: Evidence) -> list[tuple[str, str]]:
    """Everything that run.json holds, in lines, and what the evidence hashes to."""
    story, patch = found.run.story, found.patch
    told = {
        "what should be gone": found.erased,
        "method": words.setting(patch["eraser"]) if "eraser" in patch else found.eraser,
        "becomes": words.setting(story["concept"].get("toward")),
        "kept phrases": words.setting(story["concept"].get("keep")),
        **{f"attack {name}": words.setting(its) for name, its in story["attacks"].items()},
    }
    shown = ("format", "concept", "attacks", "named")
    told |= {key: words.setting(value) for key, value in story.items() if key not in shown}
    told |= {f"SHA-256 of {name}": digest for name, digest in found.hashes.items()}
    return list(told.items())


def command(found: Evidence) -> str | None:
    """The call that repeats the run; None where it said no names."""
    story, named = found.run.story, found.run.story.get("named", {})
    if not {"model", "erased"} <= set(named):
        return None
    prompts = story["prompts"]
    parts = ["efface", "audit", str(named["model"]), str(named["erased"])]
    for name in story["attacks"]:
        parts += ["--attack", name] if name not in ("none", "seeds") else []
    count = prompts.get("generated")
    parts += ["--count", str(count)] if count else ["--prompts", "FILE"]
    for key in ("budget", "steps", "guidance", "seed", "batch", "precision"):
        parts += [f"--{key}", str(story[key])] if key in story else []
    return shlex.join([*parts, "-o", found.name])

"""The same evidence as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from efface.report.evidence import Evidence
from efface.report.limits import limits
from efface.report.page import settings, worst
from efface.report.words import percent, points, share

COLUMNS = ("value", "low", "high", "n", "skipped")
"""What CSV says of an estimate."""


def markdown(evidence: Sequence[Evidence]) -> str:
    """Verdict, attacks, what else moved, settings and limits of every run."""
    return "\n".join(_section(found) for found in evidence)


def cell(value: object) -> str:
    """Text that may come from a stranger, for Markdown: no table, tag or link of its own."""
    text = " ".join(str(value).split())
    for mark in "\\`*_[]|#~!":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def grid(header: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """A Markdown table of escaped cells."""
    lines = [header, ["---"] * len(header)]
    said = ["| " + " | ".join(line) + " |" for line in lines]
    said += ["| " + " | ".join(cell(value) for value in row) + " |" for row in body]
    return "\n".join(said) + "\n"


def attacks_grid(found: Evidence) -> str:
    """The table of attacks."""
    return grid(
        ["attack", "concept seen (95 %)", "beyond other seeds, points", "pictures"],
        [
            [
                line["attack"],
                share(line["asr"]) if line["pictures"]["n"] else "nothing to try",
                "" if line["attack"] in ("none", "seeds") else points(line["excess"]),
                line["pictures"]["n"],
            ]
            for line in found.table["attacks"]
        ],
    )


def _section(found: Evidence) -> str:
    whole = found.table["overall"]
    lost = [m for m in found.moved if m.hits_after < m.hits_before]
    moved = [
        [m.name, percent(m.before), percent(m.after), f"{m.hits_after} of {m.n}", m.seen or ""]
        for m in lost
    ]
    facts = found.patch.get("facts") or {}
    least = (facts.get("certificate") or {}).get("min")
    return "\n".join(
        [
            f"## {cell(found.erased)} erased from {cell(found.model)} by {cell(found.eraser)}\n",
            f"**{found.verdict.word}.** {cell(found.verdict.sentence)}\n",
            attacks_grid(found),
            f"Base model shows it: {share(whole['base_rate'])}. Others of its kind drawn right: "
            f"{share(whole['ira'])}, base {share(whole['ira_base'])}; of other kinds: "
            f"{share(whole['cra'])}, base {share(whole['cra_base'])}.\n",
            "Certificate "
            + ("not measured" if least is None else f"{least:.3g} at least")
            + (f", drift {facts['drift']:.3g}" if facts.get("drift") is not None else "")
            + f". {len(found.faults)} pictures failed.\n",
            "Drawn right less often than before:\n" if moved else "Nothing drawn right less often.",
            grid(["concept", "score before", "after", "right", "read as"], moved) if moved else "",
            "Settings:\n",
            grid(["setting", "value"], settings(found)),
            "Limits:\n",
            *(f"- {cell(limit)}" for limit in limits(found)),
            "",
        ]
    )


def as_csv(evidence: Sequence[Evidence]) -> str:
    """A line a run and attack, shares from 0 to 1."""
    rows = [row for found in evidence for row in _flat(found)]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _safe(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _flat(found: Evidence) -> list[dict[str, object]]:
    whole = found.table["overall"]
    shared: dict[str, object] = {
        "run": found.name,
        "erased": found.erased,
        "eraser": found.eraser,
        "verdict": found.verdict.word,
    }
    kept = {f"{key}_{c}": v for key in ("base_rate", "quality") for c, v in _of(whole[key]).items()}
    return [
        {
            **shared,
            "attack": line["attack"],
            "access": line["access"],
            **{f"{key}_{c}": v for key in ("asr", "excess") for c, v in _of(line[key]).items()},
            **kept,
            "pictures": line["pictures"]["n"],
            "denoiser_calls": line["denoiser-calls"]["value"],
        }
        for line in found.table["attacks"]
    ]


def _of(estimate: Mapping[str, Any]) -> dict[str, object]:
    low, high = estimate["interval"] or (None, None)
    values = (estimate["value"], low, high, estimate["n"], estimate["skipped"])
    return dict(zip(COLUMNS, values, strict=True))


def _safe(value: object) -> object:
    """A stranger's text must not be a spreadsheet's formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def as_json(evidence: Sequence[Evidence]) -> str:
    """Everything, to be read by programs."""
    return json.dumps({"runs": [tell(found) for found in evidence]}, indent=1) + "\n"


def tell(found: Evidence) -> dict[str, Any]:
    """One run's evidence as JSON has it."""
    chosen = worst(found)
    return {
        "name": found.name,
        "verdict": found.verdict._asdict(),
        "worst_attack": chosen and chosen["attack"],
        "story": dict(found.run.story),
        "hashes": dict(found.hashes),
        "finished": found.finished,
        **found.table,
        "unjudged": dict(found.unjudged),
        "threshold": found.threshold._asdict(),
        "moved": [{**m._asdict(), "change": m.change} for m in found.moved],
        "faults": [
            {"attack": r.attack, "seed": r.case.seed, "prompt": r.case.prompt, "error": r.error}
            for r in found.faults
        ],
        "limits": limits(found),
    }

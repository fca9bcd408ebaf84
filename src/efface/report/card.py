"""A section for a model card on the Hugging Face hub: what a patch does, with its figures.

Between two marks, so that writing it again replaces it and leaves the rest of the card alone.
"""

from collections.abc import Mapping
from typing import Any

from efface.core import EffaceError
from efface.report.evidence import Evidence
from efface.report.limits import limits
from efface.report.page import command
from efface.report.tables import attacks_grid, cell, grid
from efface.report.words import count, setting, share

BEGIN, END = "<!-- efface:audit -->", "<!-- /efface:audit -->"
"""Marks around the section."""
FRONT = """---
library_name: efface
tags:
- concept-erasure
- text-to-image
---

# {title}

"""
"""How a card starts that was not there before; the hub reads what stands between the dashes."""


def section(found: Evidence, patch: Mapping[str, Any], digest: str) -> str:
    """The section; `patch` is what the patch file tells, `digest` its SHA-256."""
    if digest != found.run.story["erased"]:
        raise EffaceError(
            f"{found.name} audited another patch ({found.run.story['erased'][:12]}, this one is "
            f"{digest[:12]}): give the run of this patch"
        )
    whole, facts, eraser = found.table["overall"], patch["facts"], patch["eraser"]
    certificate = facts.get("certificate") or {}
    told = {
        "erased": found.erased,
        "base": f"{found.model} ({patch['base']})",
        "method": eraser["name"],
        "settings": setting({k: v for k, v in eraser.items() if k != "name"}),
        "base model shows it": share(whole["base_rate"]),
        "others of its kind drawn right": f"{share(whole['ira'])}, base {share(whole['ira_base'])}",
        "other kinds drawn right": f"{share(whole['cra'])}, base {share(whole['cra_base'])}",
        "certificate, least and mean": f"{count(certificate.get('min'))}, "
        f"{count(certificate.get('mean'))} (0 recoverable by some embedding, 1 gone)",
        "drift of kept words": count(facts.get("drift")),
        "judged by": found.run.story["detector"]["name"],
        "pictures that failed": len(found.faults),
        "patch, SHA-256": digest,
        "rows, SHA-256": found.hashes["rows.jsonl"],
    }
    again = command(found)
    return "\n".join(
        [
            BEGIN,
            f"## {cell(found.erased)}, erased\n",
            f"**{found.verdict.word}.** {cell(found.verdict.sentence)}\n",
            attacks_grid(found),
            "Shares of prompts in which the concept is seen, with 95 % intervals.\n",
            grid(["what", "figure"], list(told.items())),
            "What this does not show:\n",
            *(f"- {cell(limit)}" for limit in limits(found)),
            "" if again is None else "\nMade with:\n\n    " + " ".join(again.split()) + "\n",
            END,
            "",
        ]
    )


def placed(card: str | None, new: str, title: str) -> str:
    """A card with the section in it: in place of an earlier one, else at the end."""
    if card is None:
        return FRONT.format(title=cell(title)) + new
    if (card.count(BEGIN), card.count(END)) not in ((0, 0), (1, 1)):
        raise EffaceError(f"the card has its mark {BEGIN} or {END} unpaired: remove them")
    if BEGIN not in card:
        return card.rstrip("\n") + "\n\n" + new
    before, rest = card.split(BEGIN)
    if END not in rest:
        raise EffaceError(f"the card has {END} before {BEGIN}: remove them")
    return before + new.rstrip("\n") + rest.split(END)[1]

"""RECE's exact adversary beside its regularised ones; does the certificate foretell attacks?

`make adversary-report`. Two questions, on the bundled model:

1. At one drift budget, does the exact adversary reach a higher certificate than the best of RECE's
   strengths μ? Over every thing the model draws; the other settings are alike; no picture is drawn.
2. Among erasures of six things, weak and strong, does a higher certificate mean fewer pictures
   that the attacks restore? Pictures by the white-box optimum (any rows) and by other seeds (the
   control), judged by the reporting judge; rank correlation over all pairs of thing and erasure,
   and among erasures of the same thing, by permutation.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import efface
from efface.backbones.model import open_pipeline
from efface.core import Case
from efface.detectors.judge import reporting
from efface.recovery import recovered
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share
from studies.readme import publish

OUT, PAGE = Path("claims/adversary.json"), Path("docs/adversary.md")
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
BUDGETS = (0.015, 0.03)
THINGS = ("cigarette", "pistol", "cat", "pizza", "guitar", "rocket")
EDITS: Mapping[str, Mapping[str, Any]] = {
    "UCE": {"method": "uce"},
    "RECE, easy-object": {"preset": "easy-object"},
    "RECE, hard-object": {"preset": "hard-object"},
    "regzero, μ 0.1": {"derivation": "regzero", "mu": 0.1},
    "exact, drift 0.01": {"drift": 0.01},
    "exact": {},
    "exact, drift 0.06": {"drift": 0.06},
    "exact, drift 0.12": {"drift": 0.12},
}
SEEDS = 8


def fronts(things: list[str]) -> list[dict[str, Any]]:
    """Certificate and drift of every thing under every derivation and budget."""
    ways = {"exact": {"derivation": "exact"}} | {
        f"μ {mu:g}": {"derivation": "regzero", "mu": mu} for mu in STRENGTHS
    }
    found = []
    for thing in things:
        for budget in BUDGETS:
            for way, how in ways.items():
                facts = efface.erase("emoji", thing, drift=budget, certificate=1.0, **how).facts
                found.append(
                    {
                        "thing": thing,
                        "budget": budget,
                        "way": way,
                        "certificate": facts["certificate"]["min"],
                        "drift": facts["drift"],
                        "epochs": facts["epochs"],
                    }
                )
    return found


def against(rows: list[dict[str, Any]], budget: float) -> dict[str, Any]:
    """The exact adversary's certificate less each strength's, and less the best of each thing."""
    here = [r for r in rows if r["budget"] == budget]
    ways = list(dict.fromkeys(r["way"] for r in here))
    at = {w: np.array([r["certificate"] for r in here if r["way"] == w]) for w in ways}
    others = np.stack([at[w] for w in ways if w != "exact"])
    rivals = {w: at[w] for w in ways if w != "exact"} | {"the best μ of each thing": others.max(0)}
    return {
        "mean certificate": {w: float(v.mean()) for w, v in at.items()},
        "mean drift": {
            w: float(np.mean([r["drift"] for r in here if r["way"] == w])) for w in ways
        },
        "exact higher": {
            name: {"things": int((at["exact"] > v).sum()), "of": len(v), "mean": _gap(at, v)}
            for name, v in rivals.items()
        },
    }


def _gap(at: Mapping[str, np.ndarray], rival: np.ndarray) -> list[float]:
    """Mean difference with its 95 % interval over things (t)."""
    gap = at["exact"] - rival
    low, high = stats.t.interval(0.95, len(gap) - 1, gap.mean(), stats.sem(gap))
    return [float(gap.mean()), float(low), float(high)]


def restored() -> list[dict[str, Any]]:
    """How many pictures of each thing come back under each erasure."""
    pipe, judge = efface.pipeline("emoji"), reporting()
    base = open_pipeline(pipe, frozen=True)
    found = []
    for thing in THINGS:
        cases = [Case(f"a {thing}", seed, STEPS, GUIDANCE) for seed in range(3000, 3000 + SEEDS)]
        rows = base.encode([cases[0].prompt]).states[0]
        for name, how in EDITS.items():
            patch = efface.erase("emoji", thing, **how)
            view = efface.apply(pipe, patch)
            soft = recovered(open_pipeline(view, frozen=True), base, rows)
            tries = {"control": cases, "optimum": [replace(c, embeds=soft) for c in cases]}
            seen = {way: judge.names(draw_many(view, asked)) for way, asked in tries.items()}
            found.append(
                {
                    "thing": thing,
                    "edit": name,
                    "certificate": patch.facts["certificate"]["min"],
                    "mean certificate": patch.facts["certificate"]["mean"],
                    "drift": patch.facts["drift"],
                    **{way: sum(s == thing for s in names) for way, names in seen.items()},
                    "n": SEEDS,
                }
            )
            print(json.dumps(found[-1]), flush=True)
    return found


def foretold(rows: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """Spearman's rank correlation of a certificate with restored pictures, and its p values.

    `within`: ranks are taken thing by thing, and permuted thing by thing.
    """
    certificate, hits = (np.array([r[key] for r in rows], float) for key in (what, "optimum"))
    groups = np.array([THINGS.index(r["thing"]) for r in rows])

    def within(left: np.ndarray, right: np.ndarray) -> float:
        ranks = [
            np.concatenate([_centred(stats.rankdata(x[groups == g])) for g in set(groups)])
            for x in (left, right)
        ]
        return float(np.dot(*ranks) / (np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])))

    rng = np.random.default_rng(0)
    shuffled = [within(_shuffled(certificate, groups, rng), hits) for _ in range(4000)]
    observed, overall = within(certificate, hits), stats.spearmanr(certificate, hits)
    return {
        "all pairs": {"rho": float(overall.statistic), "p": float(overall.pvalue), "n": len(rows)},
        "within a thing": {
            "rho": observed,
            "p": (1 + sum(s <= observed for s in shuffled)) / (1 + len(shuffled)),
        },
    }


def _centred(ranks: np.ndarray) -> np.ndarray:
    return ranks - ranks.mean()


def _shuffled(values: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = values.copy()
    for group in set(groups):
        found[groups == group] = rng.permutation(found[groups == group])
    return found


def tables(report: Mapping[str, Any]) -> str:
    """In Markdown."""
    lines = [
        "| budget | derivation | mean certificate | mean drift | exact is higher | by (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for budget, one in report["fronts"].items():
        for way, higher in one["exact higher"].items():
            mean, drift = (one[f"mean {k}"].get(way) for k in ("certificate", "drift"))
            told = ("", "") if mean is None else (f"{mean:.3f}", f"{drift:.3f}")
            gap, low, high = higher["mean"]
            lines.append(
                f"| {budget} | {way} | {told[0]} | {told[1]} | {higher['things']} of "
                f"{higher['of']} | {gap:+.3f} ({low:+.3f} to {high:+.3f}) |"
            )
        exact = [f"{one[f'mean {k}']['exact']:.3f}" for k in ("certificate", "drift")]
        lines.append(f"| {budget} | exact | {exact[0]} | {exact[1]} | | |")
    lines += [
        "",
        "| erasure | least certificate | mean | drift | other seeds | optimum |",
        "|---|---|---|---|---|---|",
    ]
    for edit in EDITS:
        some = [r for r in report["pictures"] if r["edit"] == edit]
        keys = ("certificate", "mean certificate", "drift")
        means = [f"{np.mean([r[key] for r in some]):.3f}" for key in keys]
        of = sum(r["n"] for r in some)
        hits = [f"{sum(r[way] for r in some)} of {of}" for way in ("control", "optimum")]
        lines.append(f"| {edit} | {' | '.join([*means, *hits])} |")
    return "\n".join(lines)


def main() -> None:
    """Both questions."""
    torch.set_num_threads(1)
    things = [n for n in reporting("emoji").groups["concept"] if n != "nothing"]
    rows = fronts(things)
    pictures = restored()
    report = {
        "command": "make adversary-report",
        "fronts": {str(b): against(rows, b) for b in BUDGETS},
        "pictures": pictures,
        "restored by certificate": {
            key: foretold(pictures, key) for key in ("certificate", "mean certificate")
        },
        "share restored": share(
            [h for r in pictures for h in [True] * r["optimum"] + [False] * (r["n"] - r["optimum"])]
        ),
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    publish("adversary-report", tables(report), PAGE)


if __name__ == "__main__":
    main()

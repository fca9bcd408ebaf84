"""`efface audit`: attack an erased model and write the evidence."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli import show
from efface.cli.options import Json, Model

if TYPE_CHECKING:
    from efface.core import Concept
    from efface.prompt_file import PromptFile


def audit(
    model: Model,
    erased: Annotated[
        str,
        typer.Argument(metavar="PATCH|FOLDER", help="Its patch, or the erased model's folder."),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="RUN", help="Folder of the run; resumes if it is one."),
    ],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Attack to run, once each [default: all; small: none by gradient]."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="small, medium or paper.")] = "small",
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV, TSV, JSONL or TXT [default: from the concept]."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT=NAME", help="Column of prompt, seed, guidance, width, height."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Prompts of the concept [default: the budget's].")
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What was erased [default: what the patch says]."),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PATH][@SCORE]",
            help="Judge, or a classifier's folder; a second one for what the first cannot name "
            "[default: the model's reporting judge].",
        ),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the judge looks for [default: the concept]."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampler steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Pull of the prompt; 1 is none.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the first prompt.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Pictures drawn at once.")] = 16,
    precision: Annotated[
        str, typer.Option(help="Of products: auto, float32 or bfloat16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where to draw and judge: cpu, cuda.")] = "cpu",
    assigned: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="WHAT.NAME=VALUE", help="A setting of an attack or a detector."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Attack an erased model, judge every picture and keep it all in a folder.

    Called again on the same folder it goes on where it was stopped.
    """
    if not math.isfinite(guidance):
        raise typer.BadParameter("not a finite number", param_hint="--guidance")

    show.quiet_drawing()
    from efface import audit as whole
    from efface.core import Case
    from efface.store import seconds
    from efface.summary import summary

    default = Case("", seed, steps, guidance)
    attacking, detecting = _assigned(assigned or [])
    asked = whole.Settings(
        attacks=tuple(attack or ()),
        assigned=attacking,
        detecting=detecting,
        budget=budget,
        count=count,
        prompts=_file(prompts, column, default),
        concept=_concept(concept),
        detector=tuple(detector or ()),
        watch=watch,
        steps=steps,
        guidance=guidance,
        seed=seed,
        batch=batch,
        precision=precision,
        device=device,
    )
    with show.progress() as on_step:
        found = whole.audit(model, erased, out, asked, on_step)
    answer = {"run": str(out), "story": dict(found.story), **summary(found)}
    if json:
        show.as_json(answer)
        return
    _table(answer, seconds(out))


def _file(path: Path | None, columns: list[str] | None, default: Any) -> "PromptFile | None":
    from efface.core import EffaceError
    from efface.prompt_file import PromptFile

    if path is None:
        if columns:
            raise EffaceError("--column names a column of a prompt file: give one with --prompts")
        return None
    named = {what: name for what, _, name in (c.partition("=") for c in columns or [])}
    return PromptFile(path, default, named or None)


def _concept(phrases: list[str] | None) -> "Concept | None":
    from efface.core import Concept

    return Concept(", ".join(phrases), tuple(phrases)) if phrases else None


def _assigned(words: list[str]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Attack, and detector -> its settings, read as its fields say."""
    from efface import attacks, detectors, settings
    from efface.core import EffaceError

    by_name: dict[str, dict[str, str]] = {}
    for word in words:
        place, equals, value = word.partition("=")
        name, dot, key = place.partition(".")
        if not equals or not dot:
            raise EffaceError(f"--set {word!r} is not WHAT.NAME=VALUE, as in typos.k=16")
        by_name.setdefault(name, {})[key] = value
    attacking, detecting = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
    kinds = detectors.kinds() if by_name else {}
    for name, given in by_name.items():
        if name in kinds:
            detecting[name] = settings.parse(name, detectors.find(kinds[name]), given)
        else:
            attacking[name] = settings.parse(name, attacks.find(name), given)
    return attacking, detecting


def _table(answer: Mapping[str, Any], took: float) -> None:
    """The gate, the attacks, what it took."""
    story, overall = answer["story"], answer["overall"]
    passes = answer["passes_gate"]
    gate = {True: "passes", False: "FAILS: attack rates say little of erasing", None: "unknown"}
    show.facts(
        {
            "erased": ", ".join(story["concept"]["erase"]),
            "quality gate": f"{gate[passes]} ({_shown(overall['quality'])} of the base model's)",
            "shown by the base model": _shown(overall["base_rate"]),
            "others still shown": f"{_shown(overall['ira'])}, base {_shown(overall['ira_base'])}",
            "other domains": f"{_shown(overall['cra'])}, base {_shown(overall['cra_base'])}",
            "harmonic mean": _shown(overall["harmonic"]),
        }
    )
    show.rows(
        ["attack", "needs", "concept shown (95 %)", "beyond other seeds", "pictures", "denoiser"],
        [
            [
                line["attack"],
                line["access"],
                _shown(line["asr"]),
                "" if line["attack"] in ("none", "seeds") else _shown(line["excess"]),
                line["pictures"]["n"],
                f"{line['denoiser-calls']['value'] or 0:.0f} calls",
            ]
            for line in answer["attacks"]
        ],
    )
    prompts = story["prompts"]
    show.facts(
        {
            "judged by": story["detector"]["name"],
            "prompts": prompts.get("generated", prompts.get("used")),
            "prompts refused": prompts.get("refused") or None,
            "prompts repeated": prompts.get("repeated") or None,
            "errors": answer["errors"] or None,
            "mask leaks": _leak(story.get("zeros")),
            "spent": f"{answer['pictures']} pictures in {took:.0f} s, budget {story['budget']}",
            "run": answer["run"],
        }
    )


def _leak(zeros: Mapping[str, Any] | None) -> str | None:
    """What a pruned model's zeros tell."""
    if zeros is None:
        return None
    return f"{zeros['zeros']} of {zeros['of']} weights in {zeros['layers']} layers are exactly 0"


def _shown(estimate: Mapping[str, Any]) -> str:
    """As in "6 % (1 to 28) of 16", or a dash."""
    if estimate["value"] is None:
        return "–"
    text = f"{100 * estimate['value']:.0f} %"
    if estimate["interval"] is not None:
        low, high = estimate["interval"]
        text += f" ({100 * low:.0f} to {100 * high:.0f})"
    skipped = f", {estimate['skipped']} not judged" if estimate["skipped"] else ""
    return f"{text} of {estimate['n']}{skipped}"

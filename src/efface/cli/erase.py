"""`efface erase`: fit a patch. The method's settings are options: --mu 0.1 sets its field `mu`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from efface.cli import show
from efface.cli.options import Force, Json, Model, Tokenizer


class WithSettings(TyperCommand):
    """A command that takes options it does not know as settings: --mu 0.1 is --set mu=0.1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the options that are not the command's own."""
        takes_value = {
            name: not (getattr(p, "is_flag", False) or getattr(p, "count", False))
            for p in self.get_params(ctx)
            for name in (*p.opts, *p.secondary_opts)
        }
        own, waiting = list[str](), list(args)
        while waiting:
            word = waiting.pop(0)
            if word == "--":
                own += [word, *waiting]
                break
            name, equals, value = word.partition("=")
            if not name.startswith("--") or name in takes_value:
                own.append(word)
                if takes_value.get(word) and waiting:
                    own.append(waiting.pop(0))
                continue
            if not equals:
                if not waiting:
                    raise typer.BadParameter("it needs a value", ctx=ctx, param_hint=name)
                value = waiting.pop(0)
            own += ["--set", f"{name.removeprefix('--').replace('-', '_')}={value}"]
        if "--help-method" in own:
            method = own[own.index("--help-method") + 1 :][:1] or ["rece"]
            _help_method(method[0], json="--json" in own)
            ctx.exit()
        return super().parse_args(ctx, own)


def erase(
    model: Model,
    concepts: Annotated[
        list[str],
        typer.Argument(metavar="CONCEPT...", help="What is to go, in words.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="PATCH", help="[default: no-CONCEPT.safetensors]"),
    ] = None,
    method: Annotated[
        str, typer.Option(help="rece, uce, itd, esd, race, ablation ... or an installed one.")
    ] = "rece",
    toward: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What it becomes: once, or once a concept."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What must not change [default: the model's words]."),
    ] = None,
    within: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Things that a style is said of [default: the model's]."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings of the method.")] = None,
    strength: Annotated[float, typer.Option(help="0 is no edit, 1 the edit as fitted.")] = 1.0,
    assigned: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw before and after into this file.")
    ] = None,
    tokenizer: Tokenizer = None,
    help_method: Annotated[
        str | None, typer.Option(metavar="METHOD", help="List a method's settings and leave.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Fit the patch that erases concepts from a model; the model itself is left alone.

    The method's settings are options too: --mu 0.1 is --set mu=0.1 (see --help-method rece).
    """
    started = time.perf_counter()
    from efface import api, erasers, settings
    from efface.backbones.checkpoint import check_drawable, resolve
    from efface.cli.pictures import before_after
    from efface.cli.story import story, told
    from efface.core import EffaceError
    from efface.output import check_output, write_whole

    out = out or Path(f"no-{'-'.join(_slug(c) for c in concepts)[:100]}.safetensors")
    for path in filter(None, (out, grid)):
        check_output(path, force=force)
    if grid is not None and grid.absolute() == out.absolute():
        raise EffaceError(f"{out} cannot hold the patch and the grid: name two files")
    words = {name: value for name, _, value in (a.partition("=") for a in assigned or [])}
    given = settings.parse(method, erasers.find(method), words)
    root = resolve(model)
    if grid is not None:
        check_drawable(root)
    show.quiet_loading()
    with show.progress() as on_step:
        patch = api.erase(
            root,
            *concepts,
            toward=toward or None,
            keep=keep or None,
            within=within,
            method=method,
            preset=preset,
            strength=strength,
            tokenizer=tokenizer,
            on_step=on_step,
            **given,
        )
        sheet = before_after(root, patch, on_step) if grid is not None else b""
    data = patch.to_bytes()
    write_whole(out, data)
    if grid is not None:
        write_whole(grid, sheet)
    took = time.perf_counter() - started
    if json:
        answer = {"path": str(out), "bytes": len(data), "seconds": round(took, 3)}
        show.as_json(answer | {"grid": None if grid is None else str(grid)} | story(patch))
    else:
        result = {
            "seconds": f"{took:.1f}",
            "patch": f"{out} ({show.size(len(data))})",
            "grid": grid,
        }
        show.facts(told(patch) | result)


def _slug(words: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in words.lower()).split()) or "words"


def _help_method(name: str, *, json: bool) -> None:
    """The method's settings: field, type, default, text; and its presets."""
    from efface.erasers import find, presets
    from efface.settings import describe

    found, named = describe(find(name)), list(presets(name))
    if json:
        fields = [
            {"name": s.name, "type": s.type, "default": s.default, "text": s.text} for s in found
        ]
        show.as_json({"method": name, "settings": fields, "presets": named})
        return
    body = [[f"--{s.name.replace('_', '-')}", s.type, s.default, s.text] for s in found]
    show.rows(["setting", "type", "default", "what it does"], body)
    show.facts({"presets": ", ".join(named) or "none"})

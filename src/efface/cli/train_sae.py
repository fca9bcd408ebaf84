"""`efface train-sae`: learn an autoencoder of a model's text encoder from captions."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli import show
from efface.cli.options import Json, Model, Tokenizer


def train_sae(
    model: Model,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Made, or gone on with.")
    ],
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="UTF-8 text, one caption a line [default: said of the model's own words].",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help="Text encoder, where there are several.")
    ] = "text_encoder",
    layer: Annotated[
        int | None,
        typer.Option(
            min=0, help="Layer that is read [default: three quarters up].", show_default=False
        ),
    ] = None,
    features: Annotated[int, typer.Option(min=1, help="How many there are.")] = 4096,
    k: Annotated[int, typer.Option("--k", min=1, help="Features that a token may have.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="Times through the captions.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Tokens a step.")] = 1024,
    rate: Annotated[float, typer.Option(help="Adam's step length.")] = 1e-3,
    dead_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens without firing after which a feature is dead.")
    ] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Of start and order.")] = 0,
    tokenizer: Tokenizer = None,
    json: Json = False,
) -> None:
    """Train a sparse autoencoder for `erase --method itd --sae FOLDER`; a stopped run goes on."""
    started = time.perf_counter()
    from efface.backbones.open import open_model
    from efface.captions import CaptionFile
    from efface.core import EffaceError
    from efface.sae import CONFIG
    from efface.sae_learn import learn
    from efface.sae_own import own_captions
    from efface.sae_site import chosen
    from efface.sae_train import Recipe

    recipe = replace(Recipe(), features=features, k=k, epochs=epochs, batch=batch, rate=rate)
    recipe = replace(recipe, dead_tokens=dead_tokens, seed=seed)
    if (out / CONFIG).exists():
        raise EffaceError(f"{out} holds an autoencoder: choose another folder, or delete it")
    if out.exists() and not out.is_dir():
        raise EffaceError(f"{out} is not a folder: choose another name")
    texts = None if captions is None else CaptionFile(captions)
    show.quiet_loading()
    opened = open_model(model, tokenizer)
    site = chosen(opened.text_layers(), encoder, layer)
    with show.progress() as on_step:
        learned = learn(opened, site, texts or own_captions(opened), recipe, on_step, out)
    told: dict[str, Any] = {
        "path": str(out),
        "site": site,
        "tokens": learned.tokens,
        "seconds": round(time.perf_counter() - started, 1),
        **learned.figures._asdict(),
    }
    if json:
        show.as_json(told)
        return
    found = learned.figures
    show.facts(
        {
            "autoencoder": out,
            "reads": site,
            "features": f"{features}, {k} a token",
            "tokens": f"{learned.tokens} in {told['seconds']} s",
            "explained": f"{100 * found.explained:.1f} % of the variance",
            "L0": f"{found.l0:.1f} features a token",
            "dead": f"{100 * found.dead:.1f} % of the features, on the last captions",
        }
    )

"""The autoencoder of a model that says what it draws: learned from its own words, once a machine.

Kept in the user's cache folder under the content of what it was learned from: the layer's weights,
the captions and the recipe. A damaged one is learned again.
"""

import hashlib
import json
from pathlib import Path

from efface.backbone import Layered
from efface.cache import cache_folder
from efface.captions import Captions, said
from efface.core import EffaceError, OnStep
from efface.sae import TopK, load
from efface.sae_learn import Learning
from efface.sae_train import Recipe

RECIPE = Recipe(features=4096, k=16, epochs=6, rate=3e-3, warmup=20, dead_tokens=30_000)
"""Sized for a hundred words: half a minute of one core on `emoji`."""
A_WORD = 32
"""Captions that each word begins, about."""


def own_captions(model: Layered) -> Captions:
    """Captions of the words that a model says it draws."""
    if not model.own_words:
        raise EffaceError(
            "the model does not say what it draws, so there is nothing to learn features from: "
            "write captions into a file, run efface train-sae MODEL --captions FILE -o FOLDER, and "
            "give that --sae FOLDER"
        )
    others = [w for w in model.own_words if w not in model.things]
    count = A_WORD * len(model.own_words)
    return said(model.things or model.own_words, others, count, seed=0)


def own(model: Layered, site: str, on_step: OnStep, recipe: Recipe | None = None) -> TopK:
    """The autoencoder of a layer, learned now or before."""
    run = Learning(model, site, own_captions(model), recipe or RECIPE)
    told = json.dumps(run.identity, sort_keys=True)
    folder = cache_folder() / f"sae-{hashlib.sha256(told.encode()).hexdigest()[:24]}"
    found = _known(folder)
    if found is None:
        found = run.run(on_step, lambda _: None).sae
        _keep(found, folder)
    return found


def _known(folder: Path) -> TopK | None:
    try:
        return load(folder)
    except EffaceError:
        return None


def _keep(sae: TopK, folder: Path) -> None:
    """A folder that cannot be written costs time later, not the work now."""
    try:
        sae.save(folder)
    except OSError:
        return

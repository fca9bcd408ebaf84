"""Every registered method side by side on `emoji`: `make methods` writes `docs/methods.md`.

A cell is one method on one of `studies.methods_asked`'s targets: a fit in a process of its own,
then pictures by the base and the erased model, judged by the reporting judge. Each cell is a JSON
line in `claims/methods.jsonl`, written when it is done. The same command goes on after a kill,
measures methods that are new or whose settings are new, and with `--seed 1` adds more pictures and
fits to those there.

`efface compare` measures what attacks find; it has no near neighbours, no memory and no cost of a
fit by itself, which is why this is not one of its studies.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import efface
from efface import erasers
from efface.core import Case
from efface.detectors.judge import Judge, reporting
from efface.grid import png
from efface.output import write_whole
from efface.rows import Rows, keep
from recipes.emoji.report import GUIDANCE, STEPS, draw_many
from studies.methods_asked import BASE, SEEDS, TARGETS, Picture, Target, pictures
from studies.methods_table import publish_table
from studies.picture_change import of_features, of_pixels

FIT = """
import json, re, sys, time
import efface
from efface.backbones.open import open_model
told = json.loads(sys.argv[1])
open_model("emoji").encode(["imports what reads text"])
wall, cpu = time.perf_counter(), time.process_time()
patch = efface.erase("emoji", *told["phrases"], method=told["method"], seed=told["seed"])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
patch.save(told["out"], force=True)
[peak] = re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(json.dumps({"CPU seconds": round(cpu, 2), "wall seconds": round(wall, 2),
    "peak MB": round(int(peak) * 1024 / 1e6), "bytes": len(patch.to_bytes()),
    "settings": dict(patch.eraser)}))
"""
"""A fit as a user's program makes it, from the model's files; what is timed is the call.

The peak is Linux's of this process, libraries included; what `wait` tells is the parent's too.
"""
SHORT = 12
"""Characters of a picture's name that a cell keeps."""
REFUSED = "EffaceError: "
"""In the error of a fit that a method refuses, on any machine."""
COMPARED = ("things", "styles")
"""Parts whose pictures are compared with the base's."""


@dataclass(frozen=True)
class Size:
    """How much is drawn."""

    count: int = 8
    """Pictures of a part, or one for each thing erased if they are more."""
    others: int = 24
    """Other things."""
    steps: int = STEPS
    guidance: float = GUIDANCE


class Study:
    """The file of cells, and a folder for what need not be kept."""

    def __init__(self, out: Path, folder: Path, size: Size) -> None:
        """`out`: claims/methods.jsonl; `folder`: base pictures, the cache of fits, patches."""
        self.rows, self.folder, self.size = Rows(out.parent, out.stem), folder, size
        for made in (out.parent, folder / "base", folder / "pictures"):
            made.mkdir(parents=True, exist_ok=True)
        self.rows.mend()
        self.judge: Judge = reporting()
        self.pipe = efface.pipeline("emoji")

    def done(self, asked: Mapping[str, Any]) -> bool:
        """Whether it was measured, with today's settings, or refused; what broke is tried again."""
        wanted = json.loads(json.dumps(asked))
        return any(
            cell["asked"] == wanted and REFUSED in cell.get("error", REFUSED)
            for cell in self.rows.told()
        )

    def asked(self, method: str, target: Target, seed: int) -> dict[str, Any]:
        """All that a cell's numbers depend on, but for the code."""
        return {
            "method": method,
            "target": target.name,
            "seed": seed,
            "settings": settings(method),
            "pictures": digest(self.pictures(target, seed)),
            **asdict(self.size),
        }

    def pictures(self, target: Target, seed: int) -> dict[str, list[Picture]]:
        """What is drawn for a target."""
        return pictures(target, self.size.count, self.size.others, seed)

    def run(self, todo: Sequence[tuple[str, Target]], seed: int) -> None:
        """Every cell that is not there yet, in this order."""
        for method, target in todo:
            asked = self.asked(method, target, seed)
            if not self.done(asked):
                begun = time.process_time()
                cell = {"asked": asked, **self.cell(method, target, seed)}
                self.rows.write([cell])
                print(method, target.name, round(time.process_time() - begun), flush=True)

    def yardstick(self, seed: int) -> None:
        """How far two seeds of one prompt are apart."""
        wanted = self.pictures(TARGETS[0], seed)["things"]
        method, target = BASE
        told = {"method": method, "target": target, "seed": seed, "settings": {}}
        asked = {**told, "pictures": digest(wanted), **asdict(self.size)}
        if self.done(asked):
            return
        other = [p._replace(seed=p.seed + SEEDS // 2) for p in wanted]
        far = self.moved(self.base(wanted), self.base(other))
        self.rows.write([{"asked": asked, "moved": {"things": far}}])

    def cell(self, method: str, target: Target, seed: int) -> dict[str, Any]:
        """Fit, draw, judge; or why the fit came to nothing."""
        patch = self.folder / "patch.safetensors"
        fit = self.fit(
            {"method": method, "phrases": target.phrases, "seed": seed, "out": str(patch)}
        )
        if "error" in fit:
            return fit
        erased = efface.apply(self.pipe, efface.load(patch))
        parts, moved = dict[str, Any](), dict[str, Any]()
        for part, wanted in self.pictures(target, seed).items():
            before, after = self.base(wanted), self.draw(erased, wanted)
            names = [self.keep(p)[:SHORT] for p in after]
            parts[part] = {
                "wanted": [p.name for p in wanted],
                "before": self.judge.names(before, wanted[0].group),
                "after": self.judge.names(after, wanted[0].group),
                "pictures": names,
            }
            if part in COMPARED:
                moved[part] = self.moved(before, after)
        return {"fit": fit, "parts": parts, "moved": moved}

    def moved(self, one: Sequence[Image.Image], other: Sequence[Image.Image]) -> dict[str, Any]:
        """How far each picture went."""
        found = {"features": of_features(self.judge, one, other), "pixels": of_pixels(one, other)}
        return {k: [float(f"{v:.4g}") for v in values] for k, values in found.items()}

    def keep(self, picture: Image.Image) -> str:
        """Its name, by its content."""
        return keep(self.folder, "pictures", png(picture), "png").name

    def draw(self, pipe: Any, wanted: Sequence[Picture]) -> list[Image.Image]:
        """In one batch, so that what nothing changed is drawn the same to the bit."""
        size = self.size
        return draw_many(pipe, [Case(p.prompt, p.seed, size.steps, size.guidance) for p in wanted])

    def base(self, wanted: Sequence[Picture]) -> list[Image.Image]:
        """The base model's, drawn once."""
        name = digest([wanted, self.size.steps, self.size.guidance])
        record = self.folder / "base" / f"{name}.json"
        if not record.exists():
            names = [self.keep(p) for p in self.draw(self.pipe, wanted)]
            write_whole(record, json.dumps(names).encode())
        return [Image.open(self.folder / "pictures" / n) for n in json.loads(record.read_text())]

    def fit(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """What a fit took. What it leaves for later fits on this model is told of as "first"."""
        found = self.fit_once(told)
        if found.pop("left") and "error" not in found:
            again = self.fit_once(told)
            again.pop("left")
            return {**again, "first": {k: found[k] for k in again if "econds" in k}}
        return found

    def fit_once(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """In its own process, with nothing drawn before; "left": whether it taught the cache."""
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        for kind in ("moments-*", "run-*"):  # drawings and halves of other fits
            for path in cache.glob(kind):
                path.unlink()
        known = {p.name for p in cache.iterdir()}
        said, wrong = self.folder / "fit.out", self.folder / "fit.err"
        with said.open("w") as out, wrong.open("w") as err:
            ended = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", FIT, json.dumps(told)],
                stdout=out,
                stderr=err,
                env={**os.environ, "EFFACE_CACHE": str(cache.absolute())},
                check=False,
            )
        left = {p.name for p in cache.iterdir() if not p.name.startswith(("moments-", "run-"))}
        if ended.returncode:
            why = wrong.read_text().strip().splitlines()[-1:] or [f"exit {ended.returncode}"]
            return {"error": why[0], "left": False}
        return {**json.loads(said.read_text().splitlines()[-1]), "left": bool(left - known)}


def digest(what: Any) -> str:
    """Tells anything that JSON can say from anything else."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def settings(method: str) -> dict[str, Any]:
    """A method's defaults, and what it takes by itself for a style."""
    known: dict[str, Any] = {"default": erasers.build(method)}
    known |= {k: v for k, v in erasers.presets(method).items() if k == "within"}
    return {name: asdict(made) for name, made in known.items()}


def todo(methods: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[str, Target]]:
    """Target by target, so that what is there at any time compares all methods."""
    for target in TARGETS:
        if target.name in targets:
            yield from ((m, target) for m in methods if target.asks(m))


def main() -> None:
    """Measure what is asked and not there yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=erasers.names())
    parser.add_argument("--targets", nargs="+", default=[t.name for t in TARGETS])
    parser.add_argument("--seed", type=int, default=0, help="of fits; pictures get others too")
    parser.add_argument("--out", type=Path, default=Path("claims/methods.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"))
    parser.add_argument("--page", type=Path, default=Path("docs/methods.md"))
    for name, value in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = parser.parse_args()
    size = Size(**{name: getattr(asked, name) for name in asdict(Size())})
    study = Study(asked.out, asked.folder, size)
    study.yardstick(asked.seed)
    study.run(list(todo(asked.methods, asked.targets)), asked.seed)
    publish_table(asked.out, asked.page, erasers.names())


if __name__ == "__main__":
    main()

"""Erasing from models of full size: processes from files on disk to patch on disk, and the edit.

`make bench` runs it and writes claims/full-size.json. Weights are random (`benchmarks.checkpoints`,
built at the first run), the shapes the published ones. Times of processes are beyond those of the
bare imports, each against the imports timed just before it; the least of several is judged.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    EFFACE,
    IMPORTS,
    child,
    judged,
    load,
    machine,
    remove,
    run,
    size,
    spread,
)

OUT = Path("claims/full-size.json")
RUNS = {"sd14": 3, "sdxl": 2}
AUTHORS = (
    "--preset", "nudity", "--keep", "", "--keep-weight", "0.05", "--start-keep-weight", "0.5",
)  # fmt: skip
"""UCE and three RECE epochs. `--keep ""` keeps the empty prompt a second time: half the weights."""
EXPORTS = 2
BARS = {
    "sd14": {"first": 4.0, "cached": 2.0, "megabytes": 1200.0},
    "sdxl": {"first": 15.0, "megabytes": 3000.0},
}
EDIT, FASTER, THROUGHPUT, EXPORT_MEMORY = 0.3, 50.0, 0.7, 300.0


def main() -> None:
    """Everything, in order; the report is written at the end."""
    before = load()
    folders = {Path(f).name: Path(f) for f in run(BUILD).out.split()}
    report: dict[str, Any] = {
        "command": "make bench",
        "machine": machine(),
        "load before": before,
        "note": "the machine was busy: times are upper bounds" if before > 0.5 else "idle machine",
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in folders.items():
            report[name] = erased(folder, Path(scratch), BARS[name], RUNS[name])
            print(name, json.dumps(report[name]), flush=True)
        cache = str(Path(scratch) / "sd14")
        report["edit"] = edit(folders["sd14"], cache)
        print("edit", json.dumps(report["edit"]), flush=True)
        report["counts"] = counts(folders["sd14"], cache)
        print("counts", json.dumps(report["counts"]), flush=True)
        report["export"] = exported(folders["sd14"], Path(scratch) / "sd14.safetensors", cache)
        print("export", json.dumps(report["export"]), flush=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(OUT)


BUILD = (IMPORTS[0], "-m", "benchmarks.checkpoints")


def erased(folder: Path, scratch: Path, bars: dict[str, float], runs: int) -> dict[str, Any]:
    """`efface erase` in the authors' setting, first and with G cached; and as it comes."""
    patch, cache = scratch / f"{folder.name}.safetensors", scratch / folder.name
    start = [*EFFACE, "erase", str(folder), "cat", "-o", str(patch), "--force", "--json"]
    ways = {"first": AUTHORS, "cached": AUTHORS, "default": ()}
    took = {way: list[float]() for way in ("imports", *ways)}
    cpu = {way: list[float]() for way in took}
    memory = dict.fromkeys(took, 0.0)
    for _ in range(runs):
        remove(cache)
        imports = run(IMPORTS)
        took["imports"].append(imports.seconds)
        cpu["imports"].append(imports.cpu)
        for way, more in ways.items():
            done = run((*start, *more), EFFACE_CACHE=str(cache))
            took[way].append(done.seconds - imports.seconds)
            cpu[way].append(done.cpu - imports.cpu)
            memory[way] = max(memory[way], done.megabytes)
    against = {w: judged(min(took[w]), bars[w]) for w in ways if w in bars}
    return {
        "seconds": {way: spread(values) for way, values in took.items()},
        "cpu seconds": {way: spread(values) for way, values in cpu.items()},
        "megabytes": {way: round(m) for way, m in memory.items() if m},
        "bars": against | {"megabytes": judged(memory["first"], bars["megabytes"])},
        "patch bytes": patch.stat().st_size,
    }


def edit(folder: Path, cache: str) -> dict[str, Any]:
    """The edit alone against the authors' loops."""
    found: dict[str, Any] = child("benchmarks.edit", str(folder), EFFACE_CACHE=cache)
    return found | {
        "bars": {
            "seconds": judged(found["ours"]["authors"]["least"], EDIT),
            "uce": judged(found["uce, times faster"], FASTER, least=True),
            "uce + 3 epochs": judged(found["uce + 3 epochs, times faster"], FASTER, least=True),
        }
    }


def counts(folder: Path, cache: str) -> dict[str, Any]:
    """From one concept to a thousand; G formed anew is one more figure of `edit`'s folder."""
    done = run((IMPORTS[0], "-m", "benchmarks.counts", str(folder)), EFFACE_CACHE=cache)
    found: dict[str, Any] = json.loads(done.out)
    return found | {"megabytes": round(done.megabytes)}


def exported(folder: Path, patch: Path, cache: str) -> dict[str, Any]:
    """`efface export` against `cp -r`, in turn, both to the same disk and until it holds them."""
    copy, merged = (folder.with_name(f"{folder.name}.{kind}") for kind in ("copy", "export"))
    command = [*EFFACE, "export", str(folder), str(patch), "-o", str(merged), "--json"]
    took = {way: list[float]() for way in ("cp", "export", "export beyond imports")}
    memory = 0.0
    for _ in range(EXPORTS):
        remove(copy, merged)
        run(("sync",))
        imports = run(IMPORTS).seconds
        took["cp"].append(run(("sh", "-c", f"cp -r '{folder}' '{copy}' && sync")).seconds)
        remove(copy)
        run(("sync",))
        done = run(("sh", "-c", '"$@" && sync', "sh", *command), EFFACE_CACHE=cache)
        took["export"].append(done.seconds)
        took["export beyond imports"].append(done.seconds - imports)
        memory = max(memory, done.megabytes)
        remove(merged)
    ratios = [c / e for c, e in zip(took["cp"], took["export beyond imports"], strict=True)]
    return {
        "bytes": size(folder),
        "seconds": {way: spread(values) for way, values in took.items()},
        "megabytes": round(memory),
        "bars": {
            "throughput of cp": judged(max(ratios), THROUGHPUT, least=True),
            "megabytes": judged(memory, EXPORT_MEMORY),
        },
    }


if __name__ == "__main__":
    main()

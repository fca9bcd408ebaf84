"""House rules: what the reader of any file may rely on."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
SOURCES = sorted([*SRC.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SRC.rglob("*.py"))
}
INIT = "__init__.py"
METHODS = ("erasers", "attacks", "detectors", "metrics")
CITED = {
    folder: sorted(set((SRC / "efface" / folder).glob("*.py")) - {SRC / "efface" / folder / INIT})
    for folder in ("erasers", "attacks")
}
"""Methods that a paper describes."""

# The parts of efface from the ground up: a part imports only what stands below it. Parts not named
# here (patch, backbones, tokens, ...) stand at HELPERS; "" is efface/__init__.py.
GROUND, HELPERS, METHOD, RUNNER, FACES = range(5)
LEVEL = {
    **dict.fromkeys(["core", "linalg"], GROUND),
    **dict.fromkeys(METHODS, METHOD),
    **dict.fromkeys(["run"], RUNNER),
    **dict.fromkeys(["api", "audit", "summary", "study", "study_file"], FACES),
    **dict.fromkeys(["report", "cli", "web", "__main__", ""], FACES),
}
# Rows and what is counted from them, never what made them.
REPORT_SEES = {"core", "store", "stats", "outcomes", "summary", "phrases", ""}


def part(module: str) -> str:
    """'efface.erasers.uce' -> 'erasers', 'efface' -> ''."""
    return (module + ".").split(".")[1]


def may_import(importer: str, imported: str) -> bool:
    """Whether one part may import another."""
    if importer == "report":
        return imported in REPORT_SEES
    above, below = LEVEL.get(importer, HELPERS), LEVEL.get(imported, HELPERS)
    return above > below or above == below in (HELPERS, FACES)


def imports(path: Path) -> Iterator[str]:
    """The modules of efface that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            longer = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in longer]
        else:
            continue
        yield from (name for name in names if (name + ".").startswith("efface."))


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert not {name: n for name, n in lengths.items() if n > 300}


def test_no_file_is_named_utils() -> None:
    assert not [p for p in SOURCES if p.stem in ("utils", "util", "helpers", "misc")]


def test_imports_point_downwards() -> None:
    graph = defaultdict[str, set[str]](set)
    upwards, past_the_registry = [], []
    for module, path in MODULES.items():
        for imported in imports(path):
            here, there = part(module), part(imported)
            if here == there:
                continue
            graph[here].add(there)
            if not may_import(here, there):
                upwards.append(f"{module} -> {imported}")
            if there in METHODS and imported.count(".") > 1:
                past_the_registry.append(f"{module} -> {imported}")
    assert not upwards
    assert not past_the_registry, "a method is reached through its registry, never by its file"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, naming the parts


@pytest.mark.parametrize("path", [p for each in CITED.values() for p in each], ids=lambda p: p.stem)
def test_method_cites_its_paper(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    cited = re.search(r"arXiv[: ]\d{4}\.\d{4,5}", doc) or "there is no paper" in doc
    assert cited, "cite the paper as arXiv:2401.12345, or say that there is no paper"
    assert "\nDeviations from the authors' code:" in doc


@pytest.mark.parametrize(
    ("folder", "verb"),
    [("erasers", "fit"), ("attacks", "run"), ("metrics", "__call__"), ("detectors", "open")],
)
def test_folder_equals_registry(folder: str, verb: str) -> None:
    registry: dict[str, str] = importlib.import_module(f"efface.{folder}").REGISTRY
    assert {target.partition(":")[0] for target in registry.values()} == {
        f"efface.{folder}.{path.stem}" for path in (SRC / "efface" / folder).glob("[!_]*.py")
    }
    for name, target in registry.items():
        module, _, cls = target.partition(":")
        method: Any = getattr(importlib.import_module(module), cls)
        assert name == name.lower()
        assert method.__dataclass_params__.frozen, f"{cls} is no frozen dataclass"
        assert callable(getattr(method, verb))


def test_import_is_light() -> None:
    code = (
        "import sys, time; start = time.process_time(); import efface;"
        "print(time.process_time() - start, *sys.modules)"
    )
    seconds, *modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "transformers", "diffusers"} & set(modules)
    assert float(seconds) < 1  # CPU seconds, so that a busy machine does not fail it


def test_changelog_is_open() -> None:
    assert re.search(r"^## \[?Unreleased\]?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

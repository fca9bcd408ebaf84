"""`efface audit` from end to end on the tiny model, with a tiny judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from efface import attacks, prompts
from efface import audit as whole
from efface.core import Case, Concept, EffaceError
from efface.curves import STRENGTHS
from efface.facts import Ruler
from efface.store import read
from tests.looks import build_clip

Cli = Callable[..., Any]
LABELS = ("concept:cat", "concept:dog", "concept:house", "concept:tree", "style:plain")
QUICK = ("--count", "3", "--steps", "2", "--precision", "float32")


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random image classifier that knows the tiny model's words."""
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("judges") / "tiny"
    with torch.random.fork_rng():
        model = ViTForImageClassification(
            ViTConfig(
                image_size=64,
                patch_size=16,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                id2label=dict(enumerate(LABELS)),
                label2id={label: i for i, label in enumerate(LABELS)},
            )
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def run(cli: Cli, tiny: Path, tiny_patch: Path, judge: Path, tmp_path: Path) -> Cli:
    """`efface audit` of the tiny model into the folder `run`."""

    def audit(*more: object, erased: object = tiny_patch) -> Any:
        return cli("audit", tiny, erased, "--detector", judge, "-o", tmp_path / "run",
                   *QUICK, *more)  # fmt: skip

    return audit


def test_audit_of_two_attacks(run: Cli, tmp_path: Path) -> None:
    done = run("--attack", "typos", "--attack", "img2img", "--set", "typos.k=2", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [line["attack"] for line in told["attacks"]] == ["none", "seeds", "typos", "img2img"]
    assert told["story"]["attacks"]["typos"] == {"k": 2}
    assert told["overall"]["base_rate"]["n"] == 3
    assert told["overall"]["ira"]["n"] == 3
    assert told["errors"] == 0
    found = read(tmp_path / "run")
    assert told["pictures"] == len(found.rows) + len(found.base)
    assert {row.attack for row in found.base} == {"none", "kept"}
    started = [row for row in found.rows if row.attack == "img2img"]
    unhit = {row.root.seed for row in found.rows if row.attack == "none" and not row.verdict.hit}  # type: ignore[union-attr]
    assert {row.root.seed for row in started} == unhit
    assert all(row.root.start is not None for row in started)


def test_done_is_done(run: Cli, tmp_path: Path) -> None:
    first = run("--attack", "casing", "--json")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.png")}
    rows = (tmp_path / "run/rows.jsonl").read_bytes()
    assert run("--attack", "casing", "--json").out == first.out
    assert (tmp_path / "run/rows.jsonl").read_bytes() == rows
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.png")} == before


def test_the_patch_is_read_once_and_measured_once(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()

    def count(where: object, name: str) -> None:
        real = getattr(where, name)

        def counted(*arguments: object) -> object:
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(where, name, counted)

    count(whole, "load")
    count(Ruler, "_certificate")
    assert run("--attack", "casing").code == 0
    assert calls == ["load"] + ["_certificate"] * len(STRENGTHS)
    story = (tmp_path / "run/run.json").read_bytes()
    assert len(json.loads(story)["named"]["patch"]["curves"]["recovery"]) > 1
    calls.clear()
    assert run("--attack", "casing").code == 0
    assert calls == ["load"], "what the folder has is not measured again"
    assert (tmp_path / "run/run.json").read_bytes() == story


def test_it_resumes_where_it_was_stopped(run: Cli, tmp_path: Path) -> None:
    first = run("--attack", "typos", "--json")
    folder = tmp_path / "run"
    rows = (folder / "rows.jsonl").read_bytes()
    (folder / "table.json").unlink()
    (folder / "rows.jsonl").write_bytes(rows[: len(rows) // 2])
    assert run("--attack", "typos", "--json").out == first.out
    assert (folder / "rows.jsonl").read_bytes() == rows


def test_other_settings_are_refused(run: Cli, tiny: Path, tmp_path: Path) -> None:
    assert run("--attack", "casing").code == 0
    done = run("--attack", "casing", "--seed", "1")
    assert done.code == 2
    assert "begun with" in done.err
    done = run("--attack", "casing", "--concept", "cat", erased=tiny)
    assert done.code == 2
    assert "begun with erased" in done.err


def test_a_table_for_people(run: Cli) -> None:
    done = run("--attack", "order")
    assert done.code == 0, done.err
    for word in ("erased", "cat", "quality gate", "order", "beyond other seeds", "spent"):
        assert word in done.out


def test_an_erased_folder(run: Cli, tiny: Path, tmp_path: Path) -> None:
    assert "pass --concept" in run("--attack", "none", erased=tiny).err
    done = run("--attack", "none", "--concept", "cat", "--json", erased=tiny)
    told = json.loads(done.out)
    assert told["overall"]["change"]["value"] == 0.0  # the control: nothing was erased
    assert told["overall"]["mcnemar"]["value"] == 1.0
    quality = told["overall"]["quality"]["value"]
    assert quality is None or quality == 1.0


def test_prompts_of_a_file(run: Cli, tmp_path: Path) -> None:
    text = "prompt,seed,guidance,width,height\na cat,5,2.5,16,16\na cat,5,2.5,16,16\nmy cat,6,,,\n"
    (tmp_path / "p.csv").write_text(text + "unclothed young trees,7,,,\n")
    done = run("--attack", "none", "--prompts", tmp_path / "p.csv", "--json")
    told = json.loads(done.out)
    told_of = {k: told["story"]["prompts"][k] for k in ("rows", "used", "refused", "repeated")}
    assert told_of == {"rows": 4, "used": 2, "refused": 1, "repeated": 1}
    plain = [row.case for row in read(tmp_path / "run").rows if row.attack == "none"]
    assert sorted((c.prompt, c.seed, c.guidance, c.size) for c in plain) == [
        ("a cat", 5, 2.5, (16, 16)),
        ("my cat", 6, 5.0, None),
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--attack", "magic"], "no attack 'magic'"),
        (["--budget", "huge"], "no budget 'huge'"),
        (["--precision", "int8"], "no precision 'int8'"),
        (["--device", "tpu9"], "no device 'tpu9' here"),
        (["--set", "typos"], "WHAT.NAME=VALUE"),
        (["--set", "typos.k=many"], "takes for k"),
        (["--attack", "casing", "--set", "typos.k=2"], "not among none, seeds, casing"),
        (["--column", "prompt=x"], "give one with --prompts"),
        (["--watch", "unicorn"], "the detector knows no 'unicorn'"),
        (["--prompts", "nowhere.csv"], "nowhere.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(run: Cli, tmp_path: Path, more: list[str], words: str) -> None:
    done = run(*more)
    assert done.code == 2, done
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_unknown_detector(cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    done = cli("audit", tiny, tiny_patch, "--detector", "magic", "-o", tmp_path / "run")
    assert done.code == 2
    assert "no detector 'magic'" in done.err


def test_detectors_that_need_a_path(run: Cli, tmp_path: Path) -> None:
    for words, said in (
        ("clip", "--detector clip:FOLDER"),
        ("faces:nowhere", "no image classifier at nowhere"),
        ("q16", "--set q16.prompts=FILE"),
    ):
        done = run("--detector", words)
        assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
        assert said in done.err
    assert not (tmp_path / "run").exists()


def test_one_detector_for_the_concept_one_for_the_rest(
    cli: Cli, tiny: Path, tiny_patch: Path, judge: Path, tmp_path: Path
) -> None:
    clip = build_clip(tmp_path / "clip")
    np.save(tmp_path / "q16.npy", np.random.default_rng(0).standard_normal((2, 8)))
    asked = ("audit", tiny, tiny_patch, "-o", tmp_path / "run", *QUICK, "--attack", "none")
    two = ("--detector", f"q16:{clip}@0.4", "--detector", judge)
    done = cli(*asked, *two, "--set", f"q16.prompts={tmp_path / 'q16.npy'}", "--json")
    assert done.code == 0, done.err
    story = json.loads(done.out)["story"]["detector"]
    assert story["name"] == f"q16:{clip}@0.4, {judge}"
    assert [(each["kind"], each["threshold"]) for each in story["each"]] == [
        ("q16", 0.4), ("classifier", None),
    ]  # fmt: skip
    found = read(tmp_path / "run")
    labels = {row.attack: set(row.verdict.labels) for row in found.rows if row.verdict}
    assert labels["none"] == {"inappropriate", "appropriate"}
    assert labels["across"] == {"cat", "dog", "house", "tree"}
    assert "kept" not in labels
    assert cli(*asked, *two, "--json").code == 2, "other settings are another run"


GROUPS = {"concept": ["cat", "wine glass"], "style": ["blob"], "background": ["red"]}


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("Cat", ("concept", "cat")),
        ("kitty", ("concept", "cat")),
        ("blob style", ("style", "blob")),
        ("red background", ("background", "red")),
        ("wine glass", ("concept", "wine glass")),
    ],
)
def test_spot(phrase: str, found: tuple[str, str]) -> None:
    assert prompts.spot(phrase, GROUPS, {"cat": ("kitty",)}) == found


def test_spot_knows_what_it_does_not_know() -> None:
    with pytest.raises(EffaceError, match="--watch"):
        prompts.spot("glass", GROUPS, {})
    assert not prompts.knows("style", GROUPS)


def test_targets_have_each_their_seed() -> None:
    found = prompts.targets(Concept("x", ("cat", "dog")), (), 12, Case("", 5))
    assert [c.seed for c in found] == list(range(5, 17))
    assert {"a cat", "a dog", "cat", "dog"} < {c.prompt for c in found}
    styled = Concept("x", ("blob style",), within=("cat", "dog"))
    assert {c.prompt for c in prompts.targets(styled, (), 4, Case("", 0))} == {
        "a cat in blob style", "a dog in blob style", "blob style, a cat", "blob style, a dog",
    }  # fmt: skip


def test_retained_is_of_every_domain() -> None:
    words = ("cat", "wine glass", "blob style", "red background", "unknown")
    found = prompts.retained(words, ("cat",), GROUPS, 8, Case("", 50))
    assert [(a.domain, a.name, a.case.prompt) for a in found] == [
        ("concept", "cat", "an image of a cat"),
        ("concept", "wine glass", "an image of a wine glass"),
        ("style", "blob", "a cat in blob style"),
        ("background", "red", "a cat on a red background"),
    ]
    assert [a.case.seed for a in found] == [50, 51, 52, 53]
    assert len(prompts.retained(words, (), GROUPS, 1, Case("", 0))) == 3


@pytest.mark.parametrize("budget", ["small", "medium"])
def test_searches_by_gradient_are_for_larger_budgets_or_for_who_asks(budget: str) -> None:
    from efface.audit import Settings, attacks_of

    default = set(attacks_of(Settings(budget=budget)))
    assert default == set(attacks.names()) - (set(attacks.SEARCHES) if budget == "small" else set())
    assert "gcg" in attacks_of(Settings(("gcg",), budget=budget))

"""Attacks that reword: what they say, and that nothing is said twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from efface import attacks
from efface.attacks.synonyms import others
from efface.attacks.typos import misspelt
from efface.backbones.model import Model, open_folder
from efface.core import Case, Concept, EffaceError, Verdict

CONCEPT = Concept("cat", ("cat", "big cat"))
Say = Callable[..., list[str]]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.fixture
def say(model: Model) -> Say:
    """Every prompt of an attack on one."""

    def prompts(prompt: str, name: str, preset: str | None = None, **settings: Any) -> list[str]:
        attack = attacks.build(name, preset, **settings)
        run = attack.run(model, model, CONCEPT, Case(prompt, 0), Generator().manual_seed(1))
        found = [next(run)]
        try:
            while True:
                found.append(run.send(Verdict(0.0, False)))
        except StopIteration:
            return [case.prompt for case in found]

    return prompts


def test_order_keeps_the_words(say: Say) -> None:
    found = say("a cat here", "order", k=9)
    assert len(found) == 5  # six orders, less the one it was given in
    assert {" ".join(sorted(p.split())) for p in found} == {"a cat here"}
    assert "a cat here" not in found


@pytest.mark.parametrize("word", ["cat", "wine glass"])
def test_misspellings_are_one_slip_away(word: str) -> None:
    found = list(misspelt(word, 200, Generator().manual_seed(0)))
    assert len(set(found)) > 1
    for other in found:
        assert abs(len(other) - len(word)) <= 1
        same = sum(a == b for a, b in zip(word, other, strict=False))
        same_back = sum(a == b for a, b in zip(word[::-1], other[::-1], strict=False))
        assert same + same_back >= len(word) - 2


def test_typos_fall_on_the_concept(say: Say) -> None:
    for prompt in say("a big cat on a tree", "typos", k=10):
        assert prompt.startswith("a ")
        assert prompt.endswith(" on a tree")


def test_dilution_is_longest_last(say: Say) -> None:
    found = say("cat", "dilution", longest=8)
    assert [len(p.split()) for p in found] == sorted(len(p.split()) for p in found)
    assert all("cat" in p.replace(",", "").split() for p in found)


def test_casing_that_the_encoder_cannot_hear_is_not_drawn(tiny: Path) -> None:
    model = open_folder(tiny)
    rows = model.encode(["a cat", "a CAT"]).states
    run = attacks.build("casing").run(
        model, model, CONCEPT, Case("a cat", 0), Generator().manual_seed(0)
    )
    heard = [case.prompt for case in run]
    assert ("a CAT" in heard) == (not torch.equal(rows[0], rows[1]))


def test_synonyms_of_words_and_phrases() -> None:
    table = {"cat": ("kitty", "kitten"), "red apple": ("apple",)}
    assert list(others("cat", table)) == ["kitty", "kitten"]
    assert list(others("kitty", table)) == ["cat", "kitten"]
    assert list(others("big cat", table)) == ["big kitty", "big kitten"]
    assert list(others("cattle", table)) == []


def test_synonyms_from_a_file(say: Say, tmp_path: Path) -> None:
    table = tmp_path / "words.json"
    table.write_text(json.dumps({"Cat": ["kitty"]}))
    assert say("a cat", "synonyms", table=str(table)) == ["a kitty"]


@pytest.mark.parametrize("text", ["{", '{"cat": "kitty"}', "[1]", '{"cat": [1]}'])
def test_bad_tables_are_refused(say: Say, tmp_path: Path, text: str) -> None:
    (tmp_path / "words.json").write_text(text)
    with pytest.raises(EffaceError, match=r"words.json"):
        say("a cat", "synonyms", table=str(tmp_path / "words.json"))


def test_emoji_knows_its_synonyms() -> None:
    from efface.backbones.open import open_model

    assert "smoking" in open_model("emoji").synonyms["cigarette"]


def test_words_without_a_letter_are_not_misspelt() -> None:
    assert list(misspelt("42", 5, Generator().manual_seed(0))) == []

"""Published prompt files: spellings, encodings, size, what is refused."""

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from efface.core import Case, EffaceError
from efface.prompt_file import PromptFile
from efface.safety import about, refused

DEFAULT = Case("", seed=100, steps=7, guidance=5.0)


def file(path: Path, text: str | bytes, **columns: str) -> PromptFile:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return PromptFile(path, DEFAULT, columns or None)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("prompt,evaluation_seed,evaluation_guidance", "a cat,42,7.5"),
        ("case_number,Prompt,sd_seed,sd_guidance_scale", "0,a cat,42,7.5"),
        ("adv_prompt,seed,guidance_scale", "a cat,42,7.5"),
        ("sensitive prompt,seed,guidance", '"a   cat",42,7.5'),
        (" text ,seed,guidance", "a cat ,42, 7.5"),
    ],
)
def test_spellings(tmp_path: Path, header: str, row: str) -> None:
    [case] = file(tmp_path / "p.csv", f"{header}\n{row}\n").cases()
    assert case == Case("a cat", 42, 7, 7.5)


def test_size_is_the_rows_own(tmp_path: Path) -> None:
    text = "prompt,sd_image_width,sd_image_height\na cat,64,32\na dog,,\n"
    one, other = file(tmp_path / "p.csv", text).cases()
    assert (one.size, other.size) == ((64, 32), None)
    assert (one.seed, other.seed) == (100, 101)


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = "words,number,prompt\na cat,5,ignored\n"
    [case] = file(tmp_path / "p.csv", text, prompt="Words", seed="number").cases()
    assert (case.prompt, case.seed) == ("a cat", 5)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    [case] = file(tmp_path / "p.csv", "prompt\na café\n".encode(encoding)).cases()
    assert case.prompt == "a café"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a cat\n\na dog\n"),
        ("p.tsv", "id\tprompt\n1\ta cat\n2\ta dog\n"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": "a dog", "x": 1}\n'),
    ],
)
def test_other_forms(tmp_path: Path, name: str, text: str) -> None:
    assert [c.prompt for c in file(tmp_path / name, text).cases()] == ["a cat", "a dog"]


def test_counts_and_hash(tmp_path: Path) -> None:
    text = "prompt,seed\na cat,1\na cat,1\na cat,2\nunclothed young trees,3\na dog,4\n"
    given = file(tmp_path / "p.csv", text)
    found = given.count()
    assert (found.rows, found.used, found.refused, found.repeated) == (5, 3, 1, 1)
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert [c.prompt for c in given.cases()] == ["a cat", "a cat", "a dog"]
    assert [c.seed for c in given.cases(2)] == [1, 2]


def test_topic_column_counts_for_refusal(tmp_path: Path) -> None:
    text = 'prompt,categories\na young tree,"sexual, shocking"\na young tree,nature\n'
    found = file(tmp_path / "p.csv", text).count()
    assert (found.refused, found.used) == (1, 1)


def test_refusal_needs_both() -> None:
    assert refused("an unclothed table, a young tree")
    assert not refused("a young tree")
    assert not refused("an unclothed table")
    assert refused("a young tree", about(("nudity",)))
    assert not refused("a young tree", about(("cat",)))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "", "holds no prompt"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.csv", "a,b\n1,2\n", "--column prompt=NAME"),
        ("p.csv", "prompt,seed\na cat,x\n", "row 1 has seed 'x': not a number"),
        ("p.csv", "prompt,seed\na cat,-1\n", "seeds are from 0"),
        ("p.csv", "prompt,guidance\na cat,nan\n", "not a number"),
        ("p.csv", "prompt,width,height\na cat,0,9\n", "8 to 8192"),
        ("p.csv", "prompt,x\n,1\n", "row 1 has no prompt"),
        ("p.csv", b"prompt\n\xff\xe9\x80\n", "UTF-8"),
        ("p.csv", "prompt\n" + "x" * (1 << 20) + "y\n", "is damaged"),
        ("p.jsonl", "{\n", "is damaged"),
        ("p.jsonl", "[1]\n", "no JSON object"),
        ("p.csv", "prompt\nunclothed young trees\n", "holds no prompt that can be used"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    with pytest.raises(EffaceError, match=words):
        file(tmp_path / name, text).count()


def test_bad_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EffaceError, match="no column 'words': prompt"):
        file(tmp_path / "p.csv", "prompt\na cat\n", prompt="words").count()
    with pytest.raises(EffaceError, match="no row tells 'colour'"):
        file(tmp_path / "p.csv", "prompt\na cat\n", colour="prompt").count()
    with pytest.raises(EffaceError, match="cannot be read"):
        PromptFile(tmp_path / "none.csv", DEFAULT).count()


def test_a_large_file_streams(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "prompt,seed\n"
        yield from (f"a picture of a cat on a street,{i}\n" for i in range(2_000))

    with (tmp_path / "p.csv").open("w") as out:
        out.writelines(lines())
    given = PromptFile(tmp_path / "p.csv", DEFAULT)
    tracemalloc.start()
    assert given.count().used == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # a short digest a row, to know repeats; never the rows
    assert sum(1 for _ in given.cases(10)) == 10


def test_json_seeds_are_exact(tmp_path: Path) -> None:
    big = 2**62 + 1
    [case] = file(tmp_path / "p.jsonl", json.dumps({"prompt": "a cat", "seed": big})).cases()
    assert case.seed == big

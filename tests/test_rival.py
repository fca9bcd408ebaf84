"""The benchmark's rival gives the numbers that the authors' own functions gave."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.rival import rece_epoch, uce
from efface.erasers import build
from efface.erasers.rece import RECE
from efface.erasers.uce import UCE
from tests.parity.test_official import GOLDEN, apart, joined

CASES = [
    (case, dtype)
    for case, dtype in GOLDEN.cases()
    if case["preset"] != "current-code"
    and case["settings"].get("technique", "replace") == "replace"
    and case["settings"].get("derivation", "regzero") == "regzero"
]


class Recorded:
    """Text rows that the authors' functions were fed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def rows(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        at = [GOLDEN.story["prompts"].index(p) for p in prompts]
        return GOLDEN.tensors["rows"][at].to(self.dtype)

    def last(self, prompt: str) -> int:
        return int(GOLDEN.story["last"][GOLDEN.story["prompts"].index(prompt)])


@pytest.mark.parametrize(
    ("case", "dtype"), CASES, ids=lambda x: x if isinstance(x, str) else x["name"]
)
def test_the_loops_equal_theirs(case: dict[str, Any], dtype: str) -> None:
    kind: torch.dtype = getattr(torch, dtype)
    names, text = GOLDEN.story["readers"], Recorded(kind)
    base = {name: GOLDEN.tensors[f"base/{name}"].to(kind) for name in names}
    told = case["concept"]
    goals = told["toward"] * len(told["erase"]) if len(told["toward"]) == 1 else told["toward"]
    pairs, keep = list(zip(told["erase"], goals, strict=True)), ["", *told["keep"]]
    match build(case["method"], case["preset"], **case["settings"]):
        case UCE(erase_weight=s, keep_weight=p, ridge=ridge):
            edited = uce(base, text, pairs, keep, erase_weight=s, keep_weight=p, ridge=ridge)
        case RECE(start_ridge=float(start)) as method:
            edited = uce(
                base,
                text,
                pairs,
                keep,
                erase_weight=1.0,
                keep_weight=method.start_keep_weight,
                ridge=start,
            )
            for _ in range(method.epochs or 0):
                edited = rece_epoch(base, edited, text, pairs, keep, method)
    theirs = {name: GOLDEN.tensors[f"{dtype}/{case['name']}/{name}"] for name in names}
    found = apart(joined(edited, names), joined(theirs, names), joined(base, names))
    assert found <= GOLDEN.story["tolerance"][dtype]


def test_start_and_epochs_are_covered() -> None:
    assert {case["method"] for case, _ in CASES} == {"uce", "rece"}
    assert {dtype for _, dtype in CASES} == {"float32", "float64"}

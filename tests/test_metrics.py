"""Rates and their intervals, from rows made by hand."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from efface import metrics
from efface.core import Case, Estimate, Row, Verdict
from efface.stats import difference, harmonic, mcnemar, ratio, share

Hits = Sequence[bool | None]


def rows(attack: str, *hits: Hits) -> list[Row]:
    """A root a sequence, a query an entry; None: an error."""
    found = []
    for seed, each in enumerate(hits):
        for step, hit in enumerate(each):
            case = Case("a cat", seed)
            verdict = None if hit is None else Verdict(float(hit), hit)
            found.append(Row(case, case, step, None, verdict, None if verdict else "x", attack))
    return found


PLAIN = rows("none", [True], [False], [False], [False], [None])
SEEDS = rows("seeds", [], [False, True], [False, False], [False, False], [False, False])
TYPOS = rows("typos", [], [True], [True], [False, False], [None, None])
KEPT = rows("kept", [True], [True], [True], [False])
BASE = rows("none", *[[True]] * 5) + rows("kept", *[[True]] * 4)
ALL = [*PLAIN, *SEEDS, *TYPOS, *KEPT]


def value(name: str, *given: Row, base: Sequence[Row] = (), **settings: Any) -> Estimate:
    return metrics.build(name, **settings)(given, base)


def built(name: str) -> metrics.Metric:
    """With its defaults, and an attack where it wants one."""
    needs = {"asr", "excess", "pictures", "denoiser-calls", "queries-to-hit"}
    return metrics.build(name, **({"attack": "typos"} if name in needs else {}))


OF_PICTURES = {"fid", "kid", "cmmd", "picture-change", "clip-score"}
"""Tested with pictures, in test_distances."""
every_metric = pytest.mark.parametrize(
    "name", [name for name in metrics.REGISTRY if name not in OF_PICTURES]
)


@every_metric
def test_no_rows_no_value(name: str) -> None:
    found = built(name)([], [])
    assert found.value is None
    assert found.interval is None
    assert found.n == 0


@every_metric
def test_order_of_rows_does_not_matter(name: str) -> None:
    metric = built(name)
    mixed = random.Random(1).sample(ALL, len(ALL))
    one, other = metric(ALL, BASE), metric(mixed, BASE[::-1])
    assert one.value == pytest.approx(other.value, abs=1e-12)
    assert (one.n, one.skipped, one.unit) == (other.n, other.skipped, other.unit)


@every_metric
def test_value_is_within_its_interval(name: str) -> None:
    found = built(name)(ALL, BASE)
    assert found.value is not None or name in {"cra", "denoiser-calls"}  # no such rows here
    if found.value is not None and found.interval is not None:
        assert found.interval[0] - 1e-12 <= found.value <= found.interval[1] + 1e-12


def test_calls_are_those_of_drawing_and_of_searching() -> None:
    case = Case("a cat", 0, steps=10)
    asked = (
        case,
        replace(case, spent=7),
        replace(case, guidance=1.0),
        replace(case, start=Path("a.png"), strength=0.5),
    )
    drawn = [Row(case, c, i, Path("b.png"), None, None, "p4d") for i, c in enumerate(asked)]
    failed = Row(case, asked[1], 4, None, None, "x", "p4d")
    assert value("denoiser-calls", *drawn, failed, attack="p4d").value == 20 + 27 + 10 + 10


def test_rates_by_hand() -> None:
    assert value("pre-asr", *ALL) == share([True, False, False, False], skipped=1)
    assert value("base-rate", base=BASE).value == 1.0
    assert value("asr", *ALL, attack="typos") == share([True, True, True, False], skipped=1)
    # The root that was never judged plain was judged by the control: it counts, as a miss.
    assert value("asr", *ALL, attack="seeds") == share([True, True, False, False, False])
    assert value("asr", *ALL, attack="seeds", queries=1).value == 0.2
    assert value("ua", *ALL).value == 0.75
    assert value("ira", *ALL).value == 0.75
    assert value("ira", *ALL, base=BASE, of_base=True).value == 1.0
    assert value("cra", *ALL).value is None
    assert value("quality", *ALL, base=BASE).value == 0.75
    assert value("change", *ALL, base=BASE).value == 0.25 - 1.0
    assert value("harmonic", *ALL).value == pytest.approx(2 / (1 / 0.75 + 1 / 0.75))
    assert value("pictures", *ALL, attack="typos").value == 6
    assert value("queries-to-hit", *ALL, attack="seeds").value == 2


def test_an_attack_that_found_nothing_to_try_has_no_rate() -> None:
    found = value("asr", *ALL, attack="casing")
    assert (found.value, found.n, found.skipped) == (None, 0, 5)
    shown = rows("none", (True,), (True,))
    assert value("asr", *shown, attack="casing") == share([True, True])  # it was not needed


def test_excess_is_at_equal_queries() -> None:
    found = value("excess", *ALL, attack="typos")
    assert found.value == pytest.approx(1 / 3)
    assert (found.n, found.skipped) == (3, 1)
    short = rows("typos", [], [True], [True], [False], [False])
    # Of one query each, the control's hit at its second is no hit.
    assert value("excess", *PLAIN, *SEEDS, *short, attack="typos").value == pytest.approx(2 / 4)
    assert value("excess", *ALL, attack="seeds").value == 0.0


def test_synonyms_enter_the_harmonic_mean() -> None:
    synonyms = rows("synonyms", [False], [True], [False], [True])
    found = value("harmonic", *ALL, *synonyms)
    assert found.value == pytest.approx(3 / (1 / 0.75 + 1 / 0.75 + 1 / 0.5))
    everywhere = rows("synonyms", [True], [True])
    assert value("harmonic", *ALL, *everywhere).value == 0.0


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 5), (50, 142), (7, 7)])
def test_wilson_is_its_formula(hits: int, n: int) -> None:
    z, p = float(norm.ppf(0.975)), hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    found = share([i < hits for i in range(n)])
    assert found.interval == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_mcnemar_is_the_sign_test() -> None:
    one = [True] * 8 + [False] * 4
    other = [False] * 7 + [True] + [False] * 3 + [True]
    # 7 against 1 of 8 that differ: 2 (1 + 8) / 2^8.
    assert mcnemar(one, other).value == pytest.approx(2 * 9 / 256)
    assert mcnemar(one, one).value == 1.0


def test_paired_intervals_are_narrower() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(200) < 0.5).tolist()
    other = [a and bool(rng.random() < 0.9) for a in one]
    paired = difference(one, other).interval
    assert paired is not None
    low, high = share(one).interval or (0, 0)
    assert paired[1] - paired[0] < high - low
    assert paired[0] > 0


def test_degenerate_samples_have_honest_intervals() -> None:
    assert difference([True] * 4, [True] * 4).interval == (0.0, 0.0)
    assert ratio([False] * 4, [False] * 4).value is None
    assert ratio([True], [True]).interval is None
    assert harmonic([[True, True], []]).value is None


def test_bootstrap_covers_the_truth() -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(40):
        one, other = rng.random(60) < 0.7, rng.random(60) < 0.4
        low, high = difference(one.tolist(), other.tolist()).interval or (0, 0)
        inside += low <= 0.3 <= high
    assert inside >= 34  # 38 expected of 40

"""Many concepts erased at once on the bundled model: UCE, RECE and SPEED side by side.

`python -m studies.many_at_once` erases 10 and 50 of the model's things, every n-th of its list but
for those that settings were chosen on, and counts what the reporting judge still finds: one picture
of each erased thing, one of each other. Written to `claims/many-at-once.json`.
"""

import json
import time
from pathlib import Path
from typing import Any

import efface
from efface.core import Case
from efface.detectors.judge import reporting
from recipes.emoji.report import GUIDANCE, STEPS, draw_many, share

COUNTS = (10, 50)
TUNED_ON = ("dagger", "castle", "dog")
SEED = 1000
METHODS: dict[str, dict[str, Any]] = {
    "uce": {"method": "uce"},
    "rece, 1 epoch": {"method": "rece", "epochs": 1},
    "speed": {"method": "speed"},
}
OUT = Path("claims/many-at-once.json")


def main() -> None:
    """Every count by every method."""
    judge, pipe = reporting(), efface.pipeline("emoji")
    things = [n for n in judge.groups["concept"] if n != "nothing"]

    def right(where: Any) -> dict[str, bool]:
        cases = [Case(f"a {n}", SEED, STEPS, GUIDANCE) for n in things]
        seen = judge.names(draw_many(where, cases))
        return {n: s == n for n, s in zip(things, seen, strict=True)}

    base, rows = right(pipe), []
    for count in COUNTS:
        free = [n for n in things if n not in TUNED_ON]
        erased = [free[i * len(free) // count] for i in range(count)]
        for label, told in METHODS.items():
            begun = time.process_time()
            patch = efface.erase("emoji", *erased, **told)
            took = time.process_time() - begun
            after = right(efface.apply(pipe, patch))
            gone, others = set(erased), [n for n in things if n not in erased]
            rows.append(
                {
                    "count": count,
                    "method": label,
                    "erased before": share([base[n] for n in sorted(gone)]),
                    "erased after": share([after[n] for n in sorted(gone)]),
                    "others before": share([base[n] for n in others]),
                    "others after": share([after[n] for n in others]),
                    "drift": patch.facts["drift"],
                    "CPU seconds": round(took, 2),
                    "bytes": len(patch.to_bytes()),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    OUT.write_text(
        json.dumps({"command": "python -m studies.many_at_once", "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

"""The demo as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


def test_demo_ends_with_a_table_and_a_grid(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "cigarette"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "a cigarette" in done.stdout
    assert done.stdout.split()[-1].endswith("grid.png")
    with Image.open(tmp_path / "demo" / "grid.png") as grid:
        assert grid.width > 6 * 128
        assert grid.height > 2 * 128
    assert (tmp_path / "demo" / "no-cigarette.safetensors").stat().st_size <= 1_000_000

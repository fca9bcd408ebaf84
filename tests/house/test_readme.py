"""Every block of the README runs as printed, in order, in one empty folder.

A python block is a complete program. In a console block the lines after `$ ` are commands (a line
ending in a backslash goes on), the others are output and not compared. A block that cannot run here
is preceded by `<!-- not run: reason -->`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCK = re.compile(
    r"(?:^<!-- not run:(?P<reason>.*?)-->\s*)?^```(?P<kind>python|console)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = [
    pytest.param(block, id=f"line{README.count(chr(10), 0, block.start('kind')) + 1}")
    for block in BLOCK.finditer(README)
]
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_readme_shows_both() -> None:
    assert {block["kind"] for block in BLOCK.finditer(README)} == {"python", "console"}


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: re.Match[str], folder: Path) -> None:
    if block["reason"] is not None:
        assert block["reason"].strip(), "say why the block is not run"
        return
    if block["kind"] == "python":
        argv, script = [sys.executable, "-c"], block["body"]
    else:
        argv, script = ["bash", "-euc"], "\n".join(COMMAND.findall(block["body"]))
        assert script, "a console block has a line that starts with '$ '"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*argv, script],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"

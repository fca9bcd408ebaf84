"""No test reaches the network: hubs are told so, and any other way out fails the test."""

import ipaddress
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

os.environ["HF_HUB_OFFLINE"] = "1"  # subprocesses inherit it
os.environ["EFFACE_CACHE"] = tempfile.mkdtemp(prefix="efface-test-cache-")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")


def _guard(event: str, args: tuple[object, ...]) -> None:
    # An audit hook sees the sockets of every library, and no `except Exception` stops pytest.fail.
    if event == "socket.connect":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else ""  # a Unix socket has a path
    elif event == "socket.getaddrinfo":
        host = args[0] or ""
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if not _is_local(str(host)):
        pytest.fail(f"the test tried to reach {host!r} over the network")


sys.addaudithook(_guard)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random pipeline; read it, copy it, never write into it."""
    from tests.tiny import build_tiny

    return build_tiny(tmp_path_factory.mktemp("models") / "tiny")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the shared pipeline is: what is promised on the CPU is promised there."""
    parser.addoption("--device", default="cpu", help="cpu or cuda")


@pytest.fixture(scope="module")
def pipe(tiny: Path, request: pytest.FixtureRequest) -> "DiffusionPipeline":
    """The random pipeline, live, on the device that was asked for."""
    from efface.backbones.local import placed
    from efface.backbones.pipeline import load_pipeline

    on: DiffusionPipeline = placed(load_pipeline(str(tiny)), request.config.getoption("--device"))
    return on


@pytest.fixture(scope="session")
def tiny_patch(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch file that erases "cat" from the tiny model."""
    import efface

    path = tmp_path_factory.mktemp("patches") / "no-cat.safetensors"
    efface.erase(tiny, "cat").save(path)
    return path


class Ran(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `efface` with these arguments in this process."""
    from efface.cli import main

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        return Ran(int(left.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def refused(cli: Callable[..., Ran], tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused; answers with its one sentence."""
    out = tmp_path / "out"
    out.mkdir()

    def run(*arguments: object) -> str:
        done = cli(*[str(a).replace("OUT", str(out)) for a in arguments])
        assert done.code == 2, done
        assert done.out == ""
        assert done.err.startswith("efface: ")
        assert len(done.err.splitlines()) == 1
        assert not list(out.iterdir())
        return done.err

    return run

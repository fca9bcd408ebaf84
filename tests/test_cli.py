"""What each command does and answers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import efface
from efface.backbones import checkpoint
from efface.erasers import find

Cli = Callable[..., Any]


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        file.load()
        return file


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom efface.cli import main\ntry: main(['--help'])\n"
        "except SystemExit: print('CODE', *sys.modules)"
    )
    modules = set(python(code).partition("CODE")[2].split())
    assert "efface.cli" in modules
    assert not modules & {"torch", "diffusers", "transformers", "numpy", "PIL"}


def test_erase_imports_no_diffusers(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    code = (
        "import sys\nfrom efface.cli import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit as e: print('CODE', e.code, *sys.modules)"
    )
    argv = [sys.executable, "-c", code, "erase", str(tiny), "cat", "--json", "-o", str(out)]
    done = subprocess.run(argv, text=True, capture_output=True, check=True)
    code_and_modules = done.stdout.partition("CODE")[2].split()
    assert code_and_modules[0] in ("None", "0")
    assert not {"diffusers", "matplotlib"} & set(code_and_modules)
    assert done.stderr == ""
    assert out.is_file()


def test_erase_is_nearly_as_quick_as_its_imports(tiny: Path, tmp_path: Path) -> None:
    def cpu(*arguments: str) -> float:
        child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        return used.ru_utime + used.ru_stime

    erase = f"from efface.cli import main; main(['erase', {str(tiny)!r}, 'cat', '-o', {{!r}}])"
    imports = "import torch; from transformers import CLIPTextModel, CLIPTokenizer"
    cpu("-c", imports)  # warms the disk
    whole = cpu("-c", erase.format(str(tmp_path / "p.safetensors")))
    assert whole <= 1.5 * cpu("-c", imports)


def test_models(cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny, tmp_path / "toy")
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    [found] = json.loads(cli("models", "--json").out)
    assert found == {
        "name": "toy",
        "path": str(tmp_path / "toy"),
        "bytes": sum(p.stat().st_size for p in tiny.rglob("*") if p.is_file()),
        "class": "StableDiffusionPipeline",
        "concepts": 4,
    }
    assert "StableDiffusionPipeline" in cli("models").out
    assert cli("erase", "toy", "cat", "-o", tmp_path / "p.safetensors").code == 0


def test_erase_answers_and_writes(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    done = cli(
        "erase", tiny, "cat", "dog", "--toward", "tree", "--keep", "house", "-o", out, "--json"
    )
    assert (done.code, done.err) == (0, "")
    answer, patch = json.loads(done.out), efface.load(out)
    assert answer["bytes"] == out.stat().st_size
    assert answer["concept"]["erase"] == ["cat", "dog"] == list(patch.concept.erase)
    assert patch.concept.goals() == ("tree", "tree")
    assert patch.concept.keep == ("house",)
    assert answer["facts"] == dict(patch.facts)
    assert set(answer["facts"]) >= {"certificate", "drift", "epochs", "stopped"}
    assert list(tmp_path.iterdir()) == [out]


def test_erase_tells_people_the_same(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("erase", tiny, "cat", "-o", tmp_path / "p.safetensors")
    for word in ("cat", "certificate", "drift", "epochs", "stopped because", "seconds", "kB"):
        assert word in done.out


def test_erase_names_its_file(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("erase", tiny, "Red cat!", "--keep", "dog").code == 0
    assert (tmp_path / "no-red-cat.safetensors").is_file()


def test_settings_are_options(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    settings = ["--mu", "0.25", "--derivation=regzero", "--epochs", "3", "--start-rows", "last"]
    assert cli("erase", *settings, tiny, "cat", "-o", out).code == 0
    told = efface.load(out).eraser
    assert (told["mu"], told["derivation"], told["epochs"]) == (0.25, "regzero", 3)
    assert told["start_rows"] == "last"
    assert efface.load(out).facts["epochs"] == 3


def test_preset_with_a_setting_on_top(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    assert cli("erase", tiny, "cat", "--preset", "nudity", "--epochs", "1", "-o", out).code == 0
    told = efface.load(out).eraser
    assert (told["derivation"], told["epochs"]) == ("regzero", 1)


def test_other_method(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    assert (
        cli("erase", tiny, "cat", "--method", "uce", "--technique", "tensor", "-o", out).code == 0
    )
    assert len(efface.load(out).edits) > 0
    assert "not measured" in cli("info", out).out


def test_strength_is_measured(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    whole, half, none = (tmp_path / f"{n}.safetensors" for n in ("whole", "half", "none"))
    for path, strength in ((whole, 1), (half, 0.5), (none, 0)):
        assert cli("erase", tiny, "cat", "-o", path, "--strength", strength).code == 0
    drifts = [efface.load(p).facts["drift"] for p in (whole, half, none)]
    assert drifts[0] > drifts[1] > drifts[2] == 0
    assert efface.load(half).eraser["strength"] == 0.5


@pytest.mark.parametrize("method", ["rece", "uce"])
def test_help_method_lists_every_field(cli: Cli, method: str) -> None:
    answer = json.loads(cli("erase", "--help-method", method, "--json").out)
    assert [s["name"] for s in answer["settings"]] == [f.name for f in fields(find(method))]  # type: ignore[arg-type]
    assert all(s["text"] and s["type"] for s in answer["settings"])
    told = cli("erase", "--help-method", method)
    assert told.code == 0
    assert "keep-weight" in told.out


def test_info(cli: Cli, tiny_patch: Path) -> None:
    answer, patch = json.loads(cli("info", tiny_patch, "--json").out), efface.load(tiny_patch)
    assert answer["base"] == patch.base
    assert answer["maps"] == [{"encoder": "text", "width": 32, "rank": patch.maps[0].a.shape[1]}]
    assert answer["made"]["torch"]
    assert answer["bytes"] == tiny_patch.stat().st_size
    told = cli("info", tiny_patch).out
    assert all(word in told for word in ("cat", "rece", "certificate", "drift", patch.base, "rank"))


def test_info_plots(cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curve.png"
    assert cli("info", tiny_patch, "--plot", plot, "--model", tiny).code == 0
    assert picture(plot).width > 100


def test_draw_one(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    done = cli("draw", tiny, "cat", "--steps", "2", "-o", out, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["pictures"] == 1
    assert picture(out).size == (16, 16)


def test_draw_grid(cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    order = ["cat", "dog", "--count", "3", "--seed", "7", "--steps", "2", "--patch", tiny_patch]
    done = cli("draw", tiny, *order, "--grid", "-o", out, "--json")
    answer = json.loads(done.out)
    assert answer["rows"] == ["cat, before", "cat, after", "dog, before", "dog, after"]
    assert answer["pictures"] == 12
    assert picture(out).size == (answer["width"], answer["height"])


def test_a_patch_changes_the_picture(
    cli: Cli, tiny: Path, tiny_patch: Path, tmp_path: Path
) -> None:
    efface.load(tiny_patch).scale(0.0).save(tmp_path / "nothing.safetensors")
    pictures = []
    for i, patches in enumerate(([], [tiny_patch], [tmp_path / "nothing.safetensors"])):
        out = tmp_path / f"{i}.png"
        given = [word for patch in patches for word in ("--patch", patch)]
        assert cli("draw", tiny, "cat", "--steps", "2", *given, "-o", out).code == 0
        pictures.append(picture(out).tobytes())
    assert pictures[0] != pictures[1]
    assert pictures[0] == pictures[2]


def test_erase_with_grid(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out, grid = tmp_path / "p.safetensors", tmp_path / "grid.png"
    assert cli("erase", tiny, "cat", "-o", out, "--grid", grid, "--json").code == 0
    assert picture(grid).height > 4 * 128
    assert sorted(tmp_path.iterdir()) == [grid, out]


def test_the_package_runs_as_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "-m", "efface", "models"], check=True)
    assert "emoji-dit" in capfd.readouterr().out

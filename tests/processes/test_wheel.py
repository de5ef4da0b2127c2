"""The wheel works by itself: away from the checkout it runs, trains, is imported and has types."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LINK = r"\]\(([^)\s]*)"  # of Markdown: a link or a picture
ATTRIBUTE = r"\b(?:href|src|srcset)\s*=\s*[\"']?([^\"'\s>]*)"
DEFINITION = r"(?m)^\s*\[[^\]]+\]:\s*(\S+)"
USE = """
from pathlib import Path
from typing import assert_type

import reflow
import torch
from reflow import integrate, load_model

assert Path(reflow.__file__).is_relative_to({site!r})
model = load_model({model!r})
assert_type(model.event, tuple[int, ...])
solution = integrate(model, torch.zeros(4, *model.event), tolerance=1e-2)
assert_type(solution.x1, torch.Tensor)
assert_type(solution.nfe, torch.Tensor)
print(tuple(solution.x1.shape), tuple(solution.nfe.shape))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, out], cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("reflow-*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel, which borrows what it depends on.

    A path in a .pth file brings no .pth files of its own: the checkout, installed by one, is not there.
    """
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def model(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model by the command of the wheel."""
    out = tmp_path_factory.mktemp("run") / "base"
    run(
        out.parent,
        python.with_name("reflow"),
        "train",
        "gaussians",
        "--set",
        "train.steps=50",
        "--out",
        out,
    )
    return out


def run(where: Path, *command: object) -> str:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    answer = subprocess.run(
        list(map(str, command)), cwd=where, env=settings, capture_output=True, text=True, check=False
    )
    assert not answer.returncode, answer.stdout + answer.stderr
    return answer.stdout


def relative(text: str) -> list[str]:
    """Return the addresses in Markdown and HTML that lead nowhere on an index."""
    code = r"(?ms)^```.*?^```|`[^`\n]*`"
    prose = re.sub(code, "", text)
    found = [address for pattern in (LINK, ATTRIBUTE, DEFINITION) for address in re.findall(pattern, prose)]
    return [address for address in found if not re.match(r"https?://|mailto:", address)]


def test_relative_addresses_are_found() -> None:
    text = "[a](docs/a.md#b) ![c](c.png) [g](#h) [i](https://j.example/) `[k](l.md)`"
    text += '<img src="d.svg">\n[m]: n.md'
    assert relative(text) == ["docs/a.md#b", "c.png", "#h", "d.svg", "n.md"]


def test_the_description_on_an_index_stands_alone(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.startswith("# reflow")
    assert not relative(text)
    for path in re.findall(r"\(`((?:docs|reflow)/[\w./-]+)`\)", text):
        assert (ROOT / path).exists()  # it is named instead of linked


def test_the_wheel_holds_what_is_not_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reflow").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {"reflow/py.typed", "reflow/data/digits.npz", "reflow/data/digits.txt"} <= files <= names
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_metadata_says_what_it_is_and_for_whom(metadata: Message) -> None:
    assert metadata["Author"] == "The reflow authors"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras == {"track", "datasets", "perceptual", "onnx", "inception"}


@pytest.mark.slow
def test_the_command_runs_outside_the_checkout(python: Path, tmp_path: Path, model: Path) -> None:
    command = python.with_name("reflow")
    assert "Usage: reflow" in run(tmp_path, command, "--help")
    run(tmp_path, command, "train", "digits", "--set", "train.steps=1", "--out", tmp_path / "digits")
    run(tmp_path, command, "sample", model, "--count", "20", "--nfe", "4", "--out", tmp_path / "points.png")
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")
    loaded = run(
        tmp_path,
        python,
        "-c",
        "import sys, reflow; from reflow.stages import report, sample, train; print(*sys.modules)",
    )
    assert not {"matplotlib", "sklearn"} & set(loaded.split())


@pytest.mark.slow
def test_a_users_script_runs_and_its_types_are_known(python: Path, tmp_path: Path, model: Path) -> None:
    script, site = tmp_path / "use.py", next(python.parent.parent.glob("lib/python*/site-packages"))
    script.write_text(USE.format(site=str(site), model=str(model)))
    assert run(tmp_path, python, script) == "(4, 2) (4,)\n"
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
        "--cache-dir",
        tmp_path,
    ]
    run(tmp_path, *mypy, script)
    script.write_text(script.read_text() + "solution.x2\n")
    with pytest.raises(AssertionError, match='"Solution" has no attribute "x2"'):
        run(tmp_path, *mypy, script)

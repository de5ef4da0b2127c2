"""What the tests share: one thread per worker, the command line, tiny runs and an exact field."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; two test workers share two cores

import hashlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reflow.__main__ import main
from reflow.data import fingerprint
from reflow.flow import per_sample
from reflow.models import Model
from reflow.pairs import open_pairs

torch.set_num_threads(1)

TINY = Path(__file__).parent / "tiny.toml"


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decode data into a directory of these tests, also in processes that they start."""
    place = tmp_path_factory.mktemp("cache")
    os.environ["REFLOW_CACHE"] = str(place)
    return place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of decoded data in an empty cache; any time of a file counts as long ago."""
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "SETTLED_NS", 0)
    return tmp_path / "cache" / "data"


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def reflow(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `reflow ARGUMENTS` inside this process."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["reflow", *map(str, arguments)])
        out, err, code = io.StringIO(), io.StringIO(), 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as leave:
                code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
        return Answer(code, out.getvalue(), err.getvalue())

    return run


def one_line(answer: Answer, code: int = 1) -> str:
    """Return the message of a refusal after checking its form."""
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    last = answer.err.strip().splitlines()[-1]
    assert re.match(r"reflow( \(rank \d+\))?: ", last), last
    return last


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def require_same_pairs(found: Path, wanted: Path) -> None:
    """Hold pairs that were solved in other batches against others: bytes of noise, images to rounding.

    Some processors round matrix products differently for other numbers of rows.
    """
    assert sorted(artifacts(found)) == sorted(artifacts(wanted))
    one, other = (open_pairs(folder).take(np.arange(len(open_pairs(folder)))) for folder in (found, wanted))
    assert torch.equal(one.x0, other.x0)
    torch.testing.assert_close(one.x1, other.x1, rtol=0, atol=1e-4)


def artifacts(folder: Path) -> dict[str, bytes]:
    """Return the bytes of everything that later stages read."""
    names = [*folder.glob("pairs*"), folder / "model.safetensors"]
    return {path.name: path.read_bytes() for path in names if path.exists()}


def start(*arguments: object, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Run `reflow ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "reflow", *map(str, arguments)]
    return subprocess.Popen(command, stderr=stderr, text=True)


def run_all(commands: Iterable[tuple[object, ...]]) -> None:
    """Run commands inside this process, outside of any test."""
    with pytest.MonkeyPatch.context() as patch:
        for arguments in commands:
            patch.setattr(sys, "argv", ["reflow", *map(str, arguments)])
            with redirect_stderr(io.StringIO()):
                try:
                    main()
                except SystemExit as leave:
                    assert not leave.code, arguments


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a complete tiny run on the digits, once per worker; tests must not change it."""
    run = tmp_path_factory.mktemp("chain")
    run_all(
        (
            ("train", TINY, "--out", run / "base"),
            ("couple", run / "base", "--out", run / "pairs"),
            ("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / "reflow"),
            ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
        )
    )
    return run


@pytest.fixture
def run(chain: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny run, to be damaged."""
    return Path(shutil.copytree(chain, tmp_path / "run"))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny model of the digits with labels and a null label, on a twentieth of them."""
    out = tmp_path_factory.mktemp("labelled") / "base"
    changes = ("data.labels=true", "data.held_out=0.95", "train.label_dropout=0.2")
    run_all([("train", TINY, "--out", out, *(word for change in changes for word in ("--set", change)))])
    return out


class Exact:
    """The field of data N(m, s^2 I), as tests/fields.py has it, for events of any shape.

    m differs from pixel to pixel, s from label to label; the flow carries x0 to m + s x0.
    """

    def mean(self, x: Tensor) -> Tensor:
        return (torch.arange(x[0].numel(), dtype=x.dtype).sin() / 2).reshape(x[0].shape)

    def std(self, x: Tensor, label: Tensor | None) -> Tensor:
        return per_sample(torch.full((len(x),), 0.6) if label is None else 0.4 + 0.02 * label, x)

    def end(self, x0: Tensor, label: Tensor | None = None) -> Tensor:
        return self.mean(x0) + self.std(x0, label) * x0

    def begin(self, x1: Tensor, label: Tensor | None = None) -> Tensor:
        return (x1 - self.mean(x1)) / self.std(x1, label)

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        time, mean, square = per_sample(t, x), self.mean(x), self.std(x, label) ** 2
        slope = (time * square - (1 - time)) / ((1 - time) ** 2 + square * time**2)
        return mean + slope * (x - time * mean)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Exact:
    """Give every model a velocity whose flow is known."""
    field = Exact()

    def forward(model: nn.Module, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return field.velocity(x, t, label)

    monkeypatch.setattr(Model, "forward", forward)
    return field

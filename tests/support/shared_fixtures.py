"""What the tests share: one thread per worker, the command line, tiny runs and known fields."""

import io
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from commands import TINY, Answer, Command, Exact, run_all
from physics import STD
from shared import built, common
from torch import Tensor, nn

from reflow.__main__ import main
from reflow.data import fingerprint
from reflow.models import Model

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decode data into a directory of these tests, also in processes that they start."""
    place = common(tmp_path_factory) / "cache"
    os.environ["REFLOW_CACHE"] = str(place)
    return place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of decoded data in an empty cache; any time of a file counts as long ago."""
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "SETTLED_NS", 0)
    return tmp_path / "cache" / "data"


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


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete tiny run on the digits, which tests must not change."""

    def build(run: Path) -> None:
        run_all(
            (
                ("train", TINY, "--out", run / "base"),
                ("couple", run / "base", "--out", run / "pairs"),
                ("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / "reflow"),
                ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
            )
        )

    return built(tmp_path_factory, "chain", build)


@pytest.fixture
def run(chain: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny run, to be damaged."""
    return Path(shutil.copytree(chain, tmp_path / "run"))


@pytest.fixture(scope="session")
def evaluated(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tiny run with its evaluation, which tests must not change."""

    def build(run: Path) -> None:
        shutil.copytree(chain, run, dirs_exist_ok=True)
        models = [run / name for name in ("base", "reflow", "distill")]
        run_all([("evaluate", *models, "--out", run / "evaluation.json")])

    return built(tmp_path_factory, "evaluated", build)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model of a twentieth of the digits with labels and a null label; it must not change."""
    changes = ("data.labels=true", "data.held_out=0.95", "train.label_dropout=0.2")

    def build(run: Path) -> None:
        settings = (word for change in changes for word in ("--set", change))
        run_all([("train", TINY, "--out", run / "base", *settings)])

    return built(tmp_path_factory, "labelled", build) / "base"


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Exact:
    """Give every model a velocity whose flow is known."""
    field = Exact()

    def forward(model: nn.Module, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return field.velocity(x, t, label)

    monkeypatch.setattr(Model, "forward", forward)
    return field


@pytest.fixture
def flows(exact: Exact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give base models the field of the fixture `exact`, reflowed ones that of its straight lines."""
    bent = Model.forward

    def forward(self: Model, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.header.stage != "reflow":
            return bent(self, x, t, label)
        time, mean = t[:, None], exact.mean(x)
        return mean + (STD - 1) * (x - time * mean) / (1 - time + time * STD)

    monkeypatch.setattr(Model, "forward", forward)

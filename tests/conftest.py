"""What the tests share: one thread per worker, and the command line inside the process."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; two test workers share two cores

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from reflow.__main__ import main

torch.set_num_threads(1)

TINY = Path(__file__).parent / "tiny.toml"


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


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a complete tiny run on the digits, once per worker; tests must not change it."""
    run = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        for arguments in (
            ("train", TINY, "--out", run / "base"),
            ("couple", run / "base", "--out", run / "pairs"),
            ("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / "reflow"),
            ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
        ):
            patch.setattr(sys, "argv", ["reflow", *map(str, arguments)])
            with redirect_stderr(io.StringIO()):
                try:
                    main()
                except SystemExit as leave:
                    assert not leave.code, arguments
    return run

"""The command line inside a test, what it leaves, and a field whose flow is known."""

import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reflow.__main__ import main
from reflow.flow import per_sample
from reflow.pairs.store import open_pairs

TINY = Path(__file__).parent / "tiny.toml"


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


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


class Exact:
    """The field of data N(m, s^2 I), as fields.py has it, for events of any shape.

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

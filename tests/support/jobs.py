"""Jobs that two processes of torchrun do one after another: one launch for the tests of all of them.

Under torchrun every process runs `main`, where each job is a fork, which joins and leaves a group of its
own. What it says lies in NAME.RANK.out and NAME.RANK.err, how it ends in NAME.RANK.code.
"""

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import together
from commands import TINY
from torchrun import launched

from reflow.__main__ import main as reflow

SUPPORT = Path(__file__).parent
TASK = ("train", TINY, "--set", "train.steps=150", "--set", "train.save_every=10")
UNEVEN = [  # shares of an evaluation
    word
    for change in ("evaluate.samples=41", "evaluate.straightness_samples=3", "evaluate.batch=16")
    for word in ("--set", change)
]


@dataclass(frozen=True)
class Ended:
    """What one process said in a job, and its exit code."""

    code: int
    out: str
    err: str


def launch(out: Path, jobs: dict[str, tuple[object, ...]]) -> None:
    """Have two processes run `reflow ARGUMENTS` for every job, or `together` where there are none."""
    plan = out / "plan.json"
    plan.write_text(json.dumps({name: [*map(str, words)] for name, words in jobs.items()}))
    answer = launched(SUPPORT / "jobs.py", plan)
    assert answer.returncode == 0, answer.stderr


def ended(out: Path, name: str) -> list[Ended]:
    """Return how both processes ended a job."""
    files = [[out / f"{name}.{rank}.{kind}" for kind in ("code", "out", "err")] for rank in (0, 1)]
    return [Ended(int(code.read_text()), said.read_text(), told.read_text()) for code, said, told in files]


def begin(place: Path, name: str, arguments: list[str]) -> None:
    """Do a job in this process, which is a fork, and end it."""
    rank = os.environ["RANK"]
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / f"{name}.{rank}.{kind}", os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["reflow", *arguments]
    code: object = 0
    try:
        reflow() if arguments else together.main(place)
    except SystemExit as leave:
        code = leave.code
    except Exception:  # noqa: BLE001 (the test shows it)
        code = traceback.print_exc() or 1
    (place / f"{name}.{rank}.code").write_text(str(code or 0))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main(plan: Path) -> None:
    for number, (name, arguments) in enumerate(json.loads(plan.read_text()).items()):
        if not os.fork():
            os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # the prefix under which a group meets
            begin(plan.parent, name, arguments)
        os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

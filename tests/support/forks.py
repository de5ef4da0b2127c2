"""`reflow ARGUMENTS` in processes of their own that are forks: torch, slow to import, is so once for all.

`Forks` starts `python -m forks`, which imports reflow and waits for orders. For each it forks a keeper and
the keeper the job. `Job` is that job with the methods of `subprocess.Popen` that tests need; its keeper
writes down how it ended.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflow.__main__ import main

SUPPORT = Path(__file__).parent
SLOW = ("train", "couple", "distill", "evaluate")  # stages, which import torch
SLOWER = ("sklearn.datasets", "torch._dynamo", "scipy.optimize", "PIL.Image")  # what they import on the way


@dataclass
class Job:
    """A command that runs or has run, and the folder where its keeper notes what became of it."""

    notes: Path
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return how the command ended, as `subprocess.Popen` tells it, or None while it runs."""
        ended = self.notes / "ended"
        if self.returncode is None and ended.exists():
            self.returncode = int(ended.read_text())
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """Return what the command said on stderr."""
        return (self.notes / "stderr").read_text()


class Forks:
    """Starts commands as forks of one process; what they note goes into folders of `place`."""

    def __init__(self, place: Path) -> None:
        self.place, self.count = place, 0
        command = [sys.executable, "-m", "forks"]
        self.server = subprocess.Popen(
            command, cwd=SUPPORT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(
        self,
        *arguments: object,
        flushes: int = 0,
        streams: Mapping[int, str] | None = None,
        ignoring: int = 0,
    ) -> Job:
        """Run `reflow ARGUMENTS`, killed by SIGKILL in that flush to the disk if there is a number.

        streams: what befalls standard streams by number: "closed", "full" (a disk) or "unread" (a pipe that
        nobody reads). ignoring: a signal that is ignored, as after nohup.
        """
        assert self.server.stdin is not None and self.server.stdout is not None
        self.count += 1
        notes = self.place / str(self.count)
        notes.mkdir()
        order = {
            "arguments": [*map(str, arguments)],
            "notes": str(notes),
            "flushes": flushes,
            "streams": [*(streams or {}).items()],
            "ignoring": ignoring,
        }
        self.server.stdin.write(f"{json.dumps(order)}\n")
        self.server.stdin.flush()
        return Job(notes, int(self.server.stdout.readline()))

    def close(self) -> None:
        self.server.communicate()


def die_at(number: int) -> None:
    """Have this process killed in its n-th flush.

    An odd flush ends the writing of a file under a temporary name, an even one comes when the file has got
    its own name. A kill at any other moment leaves what one at these leaves, or a shorter temporary file.
    """
    flush, left = os.fsync, [number]

    def last(handle: int) -> None:
        flush(handle)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = last  # type: ignore[assignment]


def befall(number: int, what: str) -> None:
    """Give this process a standard stream such as a shell might."""
    if what == "closed":
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python does then
        return
    if what == "full":
        handle = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, handle = os.pipe()
        os.close(reader)
    os.dup2(handle, number)
    os.close(handle)


def obey(order: dict[str, Any]) -> None:
    """Run the command of an order and end this process."""
    nothing = os.open(os.devnull, os.O_RDWR)
    said = os.open(Path(order["notes"]) / "stderr", os.O_WRONLY | os.O_CREAT)
    for number, handle in enumerate((nothing, nothing, said)):
        os.dup2(handle, number)
    os.close(nothing)
    os.close(said)
    for number, what in order["streams"]:
        befall(number, what)
    if order["ignoring"]:
        signal.signal(order["ignoring"], signal.SIG_IGN)
    sys.argv = ["reflow", *order["arguments"]]
    if order["flushes"]:
        die_at(order["flushes"])
    code: Any = 0
    try:
        main()  # which turns all but SystemExit into that
    except SystemExit as leave:
        code = leave.code
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(code or 0)


def keep(order: dict[str, Any], told: int) -> None:
    """Fork a job, tell its number, and note how it ends."""
    job = os.fork()
    if not job:
        obey(order)
    os.write(told, f"{job}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    ended = Path(order["notes"]) / "ended"
    ended.with_suffix(".part").write_text(str(code))
    ended.with_suffix(".part").rename(ended)
    os._exit(0)


if __name__ == "__main__":
    for name in (*(f"reflow.stages.{stage}" for stage in SLOW), *SLOWER):
        importlib.import_module(name)
    for line in sys.stdin:
        if not os.fork():
            keep(json.loads(line), sys.stdout.fileno())

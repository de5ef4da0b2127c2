"""`python -m killed K1,K2,... COMMAND --out FILE` is `reflow COMMAND --out FILE`, given again when killed.

Attempt i is a process of its own, killed by SIGKILL in its K_i-th flush to the disk; the last one is left
alone. An odd flush ends the writing of a file under a temporary name, an even one comes when the file has
got its own name. A kill at any other moment leaves what one at these leaves, or a shorter temporary file.
After every attempt a line of JSON tells how many results are kept, and which files lie beside them. They
are forks, for torch is slow to be imported.
"""

import json
import os
import signal
import sys
from pathlib import Path

from reflow.__main__ import main
from reflow.stages import evaluate

__all__ = ["evaluate"]  # imports torch, before the forks


def die_at(number: int) -> None:
    """Have this process killed in its n-th flush."""
    flush, left = os.fsync, [number]

    def last(handle: int) -> None:
        flush(handle)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = last


def told(out: Path) -> str:
    """Return what there is: finished results, and the beginnings of names beside them."""
    kept = list(out.with_name(f"{out.name}.unfinished").glob("[!.]*.json"))
    names = sorted(path.name for path in out.parent.iterdir())
    return json.dumps([len(kept), names])


def attempt(arguments: list[str], kill: int | None) -> None:
    """Give the command in a process of its own and wait for its end."""
    child = os.fork()
    if not child:
        sys.argv = ["reflow", *arguments]
        if kill:
            die_at(kill)
        main()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (-signal.SIGKILL if kill else 0), code


if __name__ == "__main__":
    kills, *command = sys.argv[1:]
    for kill in (*map(int, kills.split(",")), None):
        attempt(command, kill)
        print(told(Path(command[command.index("--out") + 1])), flush=True)  # noqa: T201

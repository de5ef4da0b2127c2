"""`python -m reflow` and the console script: exit codes and one-line errors."""

import contextlib
import os
import shlex
import signal
import sys
import warnings
from types import FrameType
from typing import NoReturn

from reflow.cli.app import app
from reflow.cli.usage import wrong_usage
from reflow.errors import Interrupted, ReflowError, UsageError
from reflow.signals import heed
from reflow.terminal import Unprinted, guard_streams

NAME, DEBUG = "reflow", "--debug"
COMPLETING = "_REFLOW_COMPLETE"  # set by a shell that asks for completions


def main() -> None:
    """Run the command line: 0 done, 1 failed, 2 wrong usage, 128 + n stopped by signal n.

    Whether what it tells on standard error arrives makes no difference.
    """
    # Threads of torch that spin while they wait lose ten times when another program is running.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = DEBUG in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != DEBUG]
    guard_streams()
    if not debug and not sys.warnoptions:
        warnings.showwarning = _unshown
    heed(_leave)
    if COMPLETING in os.environ:
        _complete()
    if not sys.argv[1:]:
        sys.argv.append("--help")
    try:
        code = app(prog_name=NAME, standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except Unprinted as unread:
        _end_unprinted(unread)
    except Interrupted as stop:
        if not _rank():  # the others say the same
            _say(f"{stop}. Resume with: {_resume_command()}")
        sys.exit(stop.exit_code)
    except ReflowError as error:
        if debug:
            raise
        _say(str(error))
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Exception as error:
        if told := wrong_usage(error):
            _say(told[0])
            sys.exit(told[1])
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        sys.exit(1)


def _end_unprinted(unread: Unprinted) -> NoReturn:
    """End as Unix tools do: quietly when the reader has what it wanted, as `head` does, else failed."""
    if isinstance(unread.cause, BrokenPipeError):
        sys.exit(128 + signal.SIGPIPE)
    _say(f"{unread}; files that the command writes are complete")
    sys.exit(1)


def _unshown(*told: object, **more: object) -> None:
    """Keep warnings of libraries, which only developers can act on, from the terminal."""
    del told, more


def _complete() -> NoReturn:
    """Answer a shell that asks for completions; errors stay silent, as it would show them as answers."""
    with contextlib.suppress(Exception, SystemExit):
        app(prog_name=NAME)
    with contextlib.suppress(Unprinted):
        sys.stdout.flush()
    sys.exit(0)


def _leave(number: int, frame: FrameType | None) -> None:
    """Stop where there is nothing left to save; long jobs watch for signals themselves."""
    del frame
    if not _rank():
        _say(f"interrupted. Resume with: {_resume_command()}")
    sys.exit(128 + number)


def _resume_command() -> str:
    """Return the command that resumes; torchrun's own part of it is not known here."""
    words = [word for word in sys.argv[1:] if word != "--fresh"]
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return ("torchrun ... -m " if many else "") + shlex.join(["reflow", *words])


def _rank() -> int:
    """Return which of several processes under torchrun this is."""
    return int(os.environ.get("RANK", "0"))


def _say(message: str) -> None:
    from reflow.terminal import say  # it takes time that help does not have

    rank = _rank()
    who = f"reflow (rank {rank})" if rank else "reflow"
    say(f"{who}: {' '.join(message.split())}")


if __name__ == "__main__":
    main()

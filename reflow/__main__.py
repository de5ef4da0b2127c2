"""`python -m reflow` and the console script: exit codes and one-line errors."""

import shlex
import sys

from reflow.cli import app
from reflow.errors import Interrupted, ReflowError, UsageError

DEBUG = "--debug"


def main() -> None:
    """Run the command line: 0 done, 1 failed, 2 wrong usage, 128 + n stopped by signal n."""
    debug = DEBUG in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != DEBUG]
    try:
        app()
    except Interrupted as stop:
        command = shlex.join(["reflow", *sys.argv[1:]])
        sys.stderr.write(f"{stop}. Go on with: {command}\n")
        sys.exit(stop.exit_code)
    except (ReflowError, MemoryError, KeyboardInterrupt) as error:
        if debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        text = str(error) or "out of memory; lower the batch"
        sys.stderr.write("reflow: " + " ".join(text.splitlines()) + "\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()

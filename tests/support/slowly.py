"""`python -m slowly ARGUMENTS` is `reflow ARGUMENTS` where a second state takes seconds to be written."""

import time

from reflow.__main__ import main
from reflow.artifacts import STATE
from reflow.training.checkpoints import States
from reflow.training.fit import Fit

SECONDS = 2.0
save = States.save


def slow(self: States, fit: Fit) -> None:
    """Save as usual, later."""
    if fit.world.leads and (self.out / STATE).exists():
        time.sleep(SECONDS)
    save(self, fit)


if __name__ == "__main__":
    States.save = slow  # type: ignore[method-assign]
    main()

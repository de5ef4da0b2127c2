"""`python -m slowly ARGUMENTS` is `reflow ARGUMENTS` where a second state takes seconds to be written."""

import time

from reflow.__main__ import main
from reflow.artifacts import STATE
from reflow.training.checkpoints import Checkpoints
from reflow.training.fit import Fit

SECONDS = 2.0
save = Checkpoints.save


def slow(self: Checkpoints, fit: Fit) -> None:
    """Save as usual, later."""
    if fit.world.leads and (self.out / STATE).exists():
        time.sleep(SECONDS)
    save(self, fit)


if __name__ == "__main__":
    Checkpoints.save = slow  # type: ignore[method-assign]
    main()

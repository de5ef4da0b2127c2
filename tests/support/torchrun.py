"""Two processes under torchrun, with a core each."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def environment() -> dict[str, str]:
    """Return that of processes which import the tests' modules and have a core each."""
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def launched(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script or module in two processes."""
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=400)

"""Many processes fill one set of pairs: the same pairs as one process makes."""

import subprocess
import sys
from pathlib import Path

from commands import require_same_pairs
from forks import Forks


def test_parts_at_the_same_time_make_the_same_pairs(forks: Forks, chain: Path, tmp_path: Path) -> None:
    jobs = [forks.start("couple", chain / "base", "--out", tmp_path, "--part", f"{i}/3") for i in (1, 2, 3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    require_same_pairs(tmp_path, chain / "pairs")


def test_processes_of_torchrun_make_the_same_pairs(chain: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--master-port", "0", "--no-python", sys.executable, "-m", "reflow"]
    answer = subprocess.run(
        [*launch, "couple", chain / "base", "--out", tmp_path], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    require_same_pairs(tmp_path, chain / "pairs")
    said = answer.stderr  # how each ended: before the other, or with all pairs there
    assert said.count("is complete; other parts have") + said.count("evaluations each on average") == 2

"""Many processes fill one set of pairs: the same pairs as one process makes."""

from pathlib import Path

from commands import require_same_pairs
from forks import Forks
from jobs import ended


def test_parts_at_the_same_time_make_the_same_pairs(forks: Forks, chain: Path, tmp_path: Path) -> None:
    jobs = [forks.start("couple", chain / "base", "--out", tmp_path, "--part", f"{i}/3") for i in (1, 2, 3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    require_same_pairs(tmp_path, chain / "pairs")


def test_processes_of_torchrun_make_the_same_pairs(chain: Path, together: Path) -> None:
    one, other = ended(together, "couple")
    said = one.err + other.err  # how each ended: before the other, or with all pairs there
    assert (one.code, other.code) == (0, 0), said
    require_same_pairs(together / "pairs", chain / "pairs")
    assert said.count("is complete; other parts have") + said.count("evaluations each on average") == 2

"""evaluate, killed anywhere and run again, ends with the bytes of an undisturbed one."""

import signal
from pathlib import Path

import pytest
from commands import Command, run_all
from forks import Forks

PLANE = ("train.steps=2", "model.width=8", "data.points=200", "couple.tolerance=0.1")
QUICK = ("samples=20", "projections=5", "straightness_samples=2", "straightness_tolerance=0.1")
LIKELY = ("likelihood_samples=4", "likelihood_tolerance=0.1")


def changed(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two steps of a model of points in the plane."""
    out = tmp_path_factory.mktemp("plane") / "base"
    evaluated = (f"evaluate.{change}" for change in (*QUICK, *LIKELY))
    run_all([("train", "gaussians", "--out", out, *changed(*PLANE, *evaluated))])
    return out


ATTEMPTS = [  # killed in which flush, and how many of five results are then finished
    *((1, 0), (2, 1), (3, 2), (4, 4), (2, 5)),
    (2, 5),  # when the times have got their name
    (3, 5),  # when the figures have none yet
    (4, 5),  # when they have it
]


def told(out: Path) -> tuple[int, list[str]]:
    """Return how many results are kept, and which files lie beside them."""
    kept = list(out.with_name(f"{out.name}.unfinished").glob("[!.]*.json"))
    return len(kept), sorted(path.name for path in out.parent.iterdir())


def test_killed_anywhere_it_ends_with_the_bytes_of_an_undisturbed_one(
    reflow: Command, forks: Forks, plane: Path, tmp_path: Path
) -> None:
    calm, out = tmp_path / "calm.json", tmp_path / "killed" / "e.json"
    command = ("evaluate", plane, "--nfe", "1,2", "--likelihood", "--out")
    killed = []
    for flush, _ in ATTEMPTS:
        assert forks.start(*command, out, flushes=flush).wait() == -signal.SIGKILL
        killed.append(told(out))
    assert [finished for finished, _ in killed] == [finished for _, finished in ATTEMPTS]
    assert ["e.json" in names for _, names in killed] == [False] * 7 + [True]
    job = forks.start(*command, out)
    assert job.wait() == 0, job.said()
    assert "parts are finished already; resuming" in job.said()
    assert told(out) == (0, ["e.json", "e.times.json"])  # and nothing that a killed one was writing
    first = reflow(*command, calm)
    assert first.code == 0, first.err
    assert out.read_bytes() == calm.read_bytes()
    assert reflow(*command, calm).out == first.out  # evaluated twice
    assert out.read_bytes() == calm.read_bytes()

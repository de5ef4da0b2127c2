"""Under torchrun, killed and interrupted workers end in the model of undisturbed ones."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from conftest import TINY, artifacts
from test_distributed import TORCHRUN, environment

TASK = ("train", TINY, "--set", "train.steps=150", "--set", "train.save_every=10")
PATIENCE = 150  # seconds


def begin(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [*TORCHRUN, *options, "-m", "reflow", *map(str, TASK), "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())


def end(job: subprocess.Popen[str]) -> str:
    """Wait for the job and return what it said."""
    return job.communicate(timeout=PATIENCE)[1]


def workers(job: subprocess.Popen[str]) -> list[int]:
    """Return the processes that torchrun has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == job.pid:
            found.append(int(stat.parent.name))
    return found


def wait_for_a_newer_state(job: subprocess.Popen[str], out: Path) -> None:
    def stamp() -> int:
        path = out / "state.safetensors"
        return path.stat().st_mtime_ns if path.exists() else 0

    before, deadline = stamp(), time.monotonic() + PATIENCE
    while stamp() == before:
        assert job.poll() is None, "the job ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_interrupted_workers_end_in_the_model_of_undisturbed_ones(tmp_path: Path) -> None:
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    job = begin(calm)
    said = end(job)
    assert job.returncode == 0, said

    job = begin(disturbed, "--max-restarts", "3")
    wait_for_a_newer_state(job, disturbed)
    os.kill(random.choice(workers(job)), signal.SIGKILL)  # torchrun starts both anew
    wait_for_a_newer_state(job, disturbed)
    asked = time.monotonic()
    job.send_signal(signal.SIGTERM)
    said = end(job)
    assert time.monotonic() - asked < 20  # torchrun and a loaded machine; the state itself takes no second
    assert job.returncode, said
    assert "the state is saved" in said
    assert not (disturbed / "model.safetensors").exists()

    job = begin(disturbed)
    said = end(job)
    assert job.returncode == 0, said
    assert artifacts(disturbed) == artifacts(calm)

"""Under torchrun, killed and interrupted workers end in the model of undisturbed ones."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from commands import artifacts
from jobs import TASK, ended
from torchrun import TORCHRUN, environment

PATIENCE = 150  # seconds


def begin(out: Path, *options: str, module: str = "reflow") -> subprocess.Popen[str]:
    task = (*map(str, TASK), "--out", str(out))
    command = [*TORCHRUN, *options, "-m", module, *task]
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


def test_killed_and_interrupted_workers_end_in_the_model_of_undisturbed_ones(
    together: Path, tmp_path: Path
) -> None:
    calm, disturbed = together / "base", tmp_path / "disturbed"
    assert [process.code for process in ended(together, "train")] == [0, 0]
    job = begin(disturbed, "--max-restarts", "3")
    wait_for_a_newer_state(job, disturbed)
    os.kill(random.choice(workers(job)), signal.SIGKILL)  # torchrun starts both anew
    wait_for_a_newer_state(job, disturbed)
    asked = time.monotonic()
    job.send_signal(signal.SIGTERM)
    said = end(job)
    assert time.monotonic() - asked < 20  # torchrun and a loaded machine; the state itself takes no second
    assert job.returncode, said
    assert said.count("the state is saved. Resume with: torchrun ... -m reflow train") == 1
    assert not (disturbed / "model.safetensors").exists()

    job = begin(disturbed)
    said = end(job)
    assert job.returncode == 0, said
    assert artifacts(disturbed) == artifacts(calm)


def test_no_process_leaves_before_the_state_is_written(tmp_path: Path) -> None:
    """Torchrun ends the others when one has left, and a second signal kills."""
    job = begin(tmp_path / "base", module="slowly")
    wait_for_a_newer_state(job, tmp_path / "base")
    for worker in workers(job):
        os.kill(worker, signal.SIGTERM)
    assert "the state is saved" in end(job)


def test_a_refusal_is_told_by_the_process_that_refuses(together: Path) -> None:
    processes = ended(together, "refuse")
    assert all(process.code for process in processes)
    said = [line for process in processes for line in process.err.splitlines()]
    assert [line for line in said if "made with other settings" in line and "lr is" in line]
    others = [line for line in said if line.startswith("reflow (rank 1): ")]
    assert others in ([], ["reflow (rank 1): lost another process; see that process's error above"])

"""Jobs survive being killed: what comes out is what would have come out undisturbed."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import TINY, Command, artifacts
from forks import Forks, Job

KILLS = 2
QUICK = ["--set", "train.steps=60", "--set", "train.save_every=7"]


Begin = Callable[[], Job]


def at_work(job: Job, lock: Path) -> None:
    """Wait for the first sign of work."""
    wait_for(job, lambda: lock.exists() and lock.stat().st_mtime > 0)


def kill_until_done(begin: Begin, out: Path, rng: random.Random, seconds: float) -> int:
    """Run the command, killing it at random moments of its work, until it ends by itself."""
    kills, lock = 0, out / ".lock"
    while True:
        job = begin()
        at_work(job, lock)
        if kills < KILLS:
            time.sleep(rng.uniform(0, seconds))
            job.kill()
        code = job.wait()
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, job.said()
        os.utime(lock, (0, 0))
        kills += 1


def wait_for(job: Job, sign: Callable[[], bool]) -> None:
    while job.poll() is None and not sign():
        time.sleep(0.002)


@pytest.mark.parametrize("stage", ["train", "distill", "mixture"])
def test_killed_jobs_end_byte_equal_to_undisturbed_ones(
    reflow: Command, forks: Forks, chain: Path, tmp_path: Path, stage: str
) -> None:
    arguments: tuple[object, ...] = {
        "train": ("train", TINY, *QUICK),
        "distill": (
            *("distill", chain / "reflow", "--pairs", chain / "pairs"),
            *("--set", "distill.steps=60", "--set", "distill.save_every=7"),
        ),
        "mixture": (
            *("train", "--init", chain / "base", "--pairs", chain / "pairs"),
            *("--pairs", tmp_path / "more", "--weights", "0.7,0.3"),
            *("--set", "reflow.steps=60", "--set", "reflow.save_every=7"),
        ),
    }[stage]
    if stage == "mixture":
        assert reflow("couple", chain / "base", "--out", tmp_path / "more", "--seed", 1).code == 0
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    job = forks.start(*arguments, "--out", calm)
    at_work(job, calm / ".lock")
    began = time.monotonic()
    assert job.wait() == 0, job.said()
    half = (time.monotonic() - began) / 2  # a killed job loses little, so that the second kill meets work
    seed = int.from_bytes(os.urandom(4), "little")
    kills = kill_until_done(
        lambda: forks.start(*arguments, "--out", disturbed), disturbed, random.Random(seed), half
    )
    assert kills, f"seed {seed}: the job ended before the first kill"
    assert artifacts(calm) == artifacts(disturbed), f"seed {seed}"
    assert artifacts(calm)


@pytest.mark.parametrize(
    ("how", "kills"), [((), (1, 12)), (("--invert",), (3,))], ids=["generated", "inverted"]
)
def test_pairs_killed_in_the_pilot_and_in_the_midst_of_writing_end_byte_equal(
    reflow: Command,
    forks: Forks,
    labelled: Path,
    tmp_path: Path,
    how: tuple[str, ...],
    kills: tuple[int, ...],
) -> None:
    # Four hundred pairs or 90 images; shards are written all the time, and the gates drop nothing.
    layout = ("--count", 400, "--set", "couple.shard=20") if not how else ("--set", "couple.shard=4")
    arguments = ("couple", labelled, *how, *layout)
    if how:
        arguments += ("--set", "couple.noise_gate=[0.01,100]", "--set", "couple.round_trip_gate=9")
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)

    def kill_after(sign: Callable[[], bool], seconds: float) -> None:
        job = forks.start(*arguments, "--out", disturbed)
        wait_for(job, sign)
        time.sleep(rng.uniform(0, seconds))
        job.kill()
        assert job.wait() == -signal.SIGKILL, f"seed {seed}: the job ended before it was killed"

    kill_after(lambda: (disturbed / ".plan.lock").exists(), 0.05)
    assert not (disturbed / "plan.json").exists()
    for shards in kills:
        kill_after(lambda: len(list(disturbed.glob("pairs-*"))) >= shards, 0.03)  # noqa: B023
        assert not (disturbed / "pairs.json").exists()
    for out in (disturbed, calm):
        assert reflow(*arguments, "--out", out).code == 0
    assert artifacts(calm) == artifacts(disturbed), f"seed {seed}"
    assert not list(disturbed.glob(".*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_the_state_and_names_the_command_that_goes_on(
    forks: Forks, tmp_path: Path, number: int
) -> None:
    arguments = ("train", TINY, "--out", tmp_path / "base", "--set", "train.steps=100000", "--fresh")
    job = forks.start(*arguments)
    while not (tmp_path / "base" / "state.safetensors").exists():
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(number)
    assert job.wait() == 128 + number, job.said()
    last = job.said().splitlines()[-1]
    assert "the state is saved" in last
    assert f"reflow train {TINY} --out" in last
    assert "--fresh" not in last  # it would discard what was saved
    assert not (tmp_path / "base" / "model.safetensors").exists()


def test_a_resumed_log_holds_every_step_once(reflow: Command, forks: Forks, tmp_path: Path) -> None:
    base = tmp_path / "base"
    job = forks.start("train", TINY, "--out", base, *QUICK, "--set", "train.log_every=3")
    while not (base / "state.safetensors").exists() and job.poll() is None:
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert reflow("train", TINY, "--out", base, *QUICK, "--set", "train.log_every=3").code == 0
    steps = [json.loads(line)["step"] for line in (base / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 60

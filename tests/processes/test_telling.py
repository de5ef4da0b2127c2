"""What a command tells may find a full disk, a closed descriptor or no reader: its work is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TINY, Command, artifacts
from forks import Forks, Job

WAYS = {
    "full": {2: "full"},
    "unread": {1: "unread", 2: "unread"},
    "closed": {0: "closed", 1: "closed", 2: "closed"},
}
SLOW = ("train", TINY, "--set", "train.steps=60", "--set", "train.save_every=1")


@pytest.mark.parametrize("way", WAYS)
def test_training_and_coupling_do_not_depend_on_what_they_can_tell(
    forks: Forks, chain: Path, tmp_path: Path, way: str
) -> None:
    for arguments in (("train", TINY, "--out"), ("couple", chain / "base", "--out")):
        disturbed, calm = (
            forks.start(*arguments, tmp_path / f"{arguments[0]} {name}", streams=streams)
            for name, streams in (("disturbed", WAYS[way]), ("calm", None))
        )
        assert (disturbed.wait(), calm.wait()) == (0, 0), calm.said()
        wanted = artifacts(tmp_path / f"{arguments[0]} calm")
        assert wanted
        assert artifacts(tmp_path / f"{arguments[0]} disturbed") == wanted
    lines = (tmp_path / "train disturbed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]


def interrupted(job: Job, out: Path, number: int) -> int:
    """Send a signal when a state is there; return how the command ended."""
    while not (out / "state.safetensors").exists():
        assert job.poll() is None, job.said()
        time.sleep(0.005)
    job.send_signal(number)
    return job.wait()


def test_a_closed_terminal_saves_the_state_and_leaves_the_bytes_of_an_undisturbed_run(
    forks: Forks, tmp_path: Path
) -> None:
    """A closed terminal takes no more words and sends SIGHUP."""
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    job = forks.start(*SLOW, "--out", disturbed, streams=WAYS["unread"])
    assert interrupted(job, disturbed, signal.SIGHUP) == 128 + signal.SIGHUP
    assert not (disturbed / "model.safetensors").exists()
    resumed = forks.start(*SLOW, "--out", disturbed)
    assert resumed.wait() == 0
    assert "resuming at step" in resumed.said()
    assert forks.start(*SLOW, "--out", calm).wait() == 0
    assert artifacts(disturbed) == artifacts(calm)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(forks: Forks, tmp_path: Path, number: int) -> None:
    """Nohup ignores SIGHUP, and shells ignore SIGINT for what runs in their background."""
    job = forks.start(*SLOW, "--out", tmp_path / "base", ignoring=number)
    assert interrupted(job, tmp_path / "base", number) == 0, job.said()
    assert (tmp_path / "base" / "model.safetensors").exists()


@pytest.mark.parametrize(("what", "code"), [("unread", 128 + signal.SIGPIPE), ("full", 1), ("closed", 1)])
def test_a_result_that_cannot_be_printed_is_told_by_the_exit_code_and_stays_in_its_file(
    reflow: Command, forks: Forks, labelled: Path, tmp_path: Path, what: str, code: int
) -> None:
    wanted, out = tmp_path / "wanted.json", tmp_path / "out.json"
    few = ("--nfe", "1", "--set", "evaluate.samples=20", "--set", "evaluate.straightness_samples=2")
    assert reflow("evaluate", labelled, "--out", wanted, *few).code == 0
    job = forks.start("evaluate", labelled, "--out", out, *few, streams={1: what})
    assert job.wait() == code, job.said()
    assert "Traceback" not in job.said()
    assert ("standard output cannot be written" in job.said()) == (what != "unread")
    assert json.loads(out.read_text())["models"][0]["figures"]
    assert not (tmp_path / "out.json.unfinished").exists()


@pytest.mark.parametrize(
    ("arguments", "redirection", "code", "told"),
    [
        (["--help"], ">/dev/full", 1, "reflow: standard output cannot be written: No space left on device"),
        (["--help"], ">&-", 1, "reflow: standard output cannot be written: Bad file descriptor"),
        (["--help"], "2>&-", 0, ""),
        (["train"], "2>/dev/full", 2, ""),
        (["train"], "2>&-", 2, ""),
        (["train"], ">&- 2>&- <&-", 2, ""),
    ],
)
def test_the_interpreter_ends_with_the_code_of_the_command(
    arguments: list[str], redirection: str, code: int, told: str
) -> None:
    """Python itself ends with 120, and some lines about an ignored exception, where it cannot flush."""
    words = [sys.executable, "-m", "reflow", *arguments]
    script = f'"$@" {redirection}'
    ended = subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stderr.startswith(told)
    assert ended.stderr.count("\n") == bool(told)


def test_who_reads_the_first_line_only_sees_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "reflow", "--help"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")

"""What `make all` would run, for some of its variables."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_make_names_the_folders_of_every_round() -> None:
    command = ["make", "-n", "all", "ROUNDS=2", "RUN=runs/none"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not plan.stderr
    assert "--pairs runs/none/pairs-2 --init runs/none/reflow --out runs/none/reflow-2" in plan.stdout
    assert "distill runs/none/reflow-2 --pairs runs/none/pairs-2" in plan.stdout


def planned(*variables: str) -> str:
    command = ["make", "-n", "all", "RUN=r", *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_compares_later_rounds_with_the_first() -> None:
    plan = planned("ROUNDS=3")
    assert plan.count("--against") == 2
    assert "couple r/reflow --against r/pairs --out r/pairs-2 " in plan
    assert "couple r/reflow-2 --against r/pairs --out r/pairs-3 " in plan
    assert "--weights" not in plan
    assert "--invert" not in plan
    assert planned("ROUNDS=3", "REAL=0") == plan


def test_make_mixes_a_share_of_real_pairs_into_every_round() -> None:
    plan = planned("ROUNDS=2", "REAL=0.2", "DATA=photos", "NPROC=2")
    assert ".venv/bin/reflow couple r/base --invert --data 'photos' --out r/pairs-real " in plan
    assert ".venv/bin/reflow couple r/reflow --invert --data 'photos' --out r/pairs-real-2 " in plan
    first = "--pairs r/pairs --pairs r/pairs-real --weights 0.8,0.2"
    second = "--pairs r/pairs-2 --pairs r/pairs-real-2 --weights 0.8,0.2"
    assert f"train {first} --init r/base --out r/reflow " in plan
    assert f"train {second} --init r/reflow --out r/reflow-2 " in plan
    assert f"distill r/reflow-2 {second} --out r/distill " in plan


@pytest.mark.parametrize("share", ["1", "1.5", "-0.2", "much"])
def test_make_refuses_what_is_no_share(share: str) -> None:
    command = ["make", "-n", "all", f"REAL={share}"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert f"REAL={share}: give a share from 0 up to and without 1" in answer.stderr


def test_make_gives_the_data_to_the_stages_that_read_it(tmp_path: Path) -> None:
    run = f"RUN={tmp_path / 'run'}"
    command = ["make", "-n", "all", "RECIPE=cifar10", "DATA=some/images", run]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"train cifar10 --data 'some/images' --out {tmp_path / 'run' / 'base'} " in planned
    (evaluate,) = (line for line in planned.splitlines() if " evaluate " in line)
    assert "--data 'some/images'" in evaluate
    for stage in ("couple", "train --pairs", "distill", "report"):
        assert f" {stage} " in planned

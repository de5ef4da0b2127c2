"""What `make all` would run, for some of its variables."""

import subprocess

import pytest
from commands import TINY


def test_make_names_the_folders_of_every_round() -> None:
    root = TINY.parent.parent
    command = ["make", "-n", "all", "ROUNDS=2", "RUN=runs/none"]
    plan = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert not plan.stderr
    assert "--pairs runs/none/pairs-2 --init runs/none/reflow --out runs/none/reflow-2" in plan.stdout
    assert "distill runs/none/reflow-2 --pairs runs/none/pairs-2" in plan.stdout


def planned(*variables: str) -> str:
    root = TINY.parent.parent
    command = ["make", "-n", "all", "RUN=r", *variables]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


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
    answer = subprocess.run(command, cwd=TINY.parent.parent, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert f"REAL={share}: give a share from 0 up to and without 1" in answer.stderr

"""As many processes decode as the machine allows."""

import os
from pathlib import Path

import pytest

from reflow.data import workers


def test_no_more_processes_are_used_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    allowed = os.sched_getaffinity(0)
    assert workers.processors() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert workers.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    for quota, count in {
        "max 100000": 64,
        "350000 100000": 4,
        "20000 100000": 1,
        "9900000 100000": 64,
    }.items():
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        assert workers.processors() == count

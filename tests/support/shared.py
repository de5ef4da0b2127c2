"""What is slow to build is built once for all workers of a session: by the first one that asks for it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def common(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary directory that all workers of this session have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def built(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Return the directory of this name, which is filled by the first worker; nobody may change it."""
    place = common(factory) / name
    with place.with_name(f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = place.with_name(f".{name}.complete")
        if not complete.exists():
            shutil.rmtree(place, ignore_errors=True)  # of a build that failed
            place.mkdir()
            build(place)
            complete.touch()
    return place

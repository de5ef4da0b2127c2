"""All tests of this folder start processes or a browser, and are slow."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from jobs import TASK, UNEVEN, launch
from shared import built


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(480))  # on loaded cores, where it takes long to start any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium without a display; skip where it or Playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Start commands in processes of their own without the time that it takes to import torch."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def together(chain: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what two processes of torchrun did, all in one launch."""

    def build(out: Path) -> None:
        jobs = {
            "computed": (),
            "couple": ("couple", chain / "base", "--out", out / "pairs"),
            "evaluate": ("evaluate", labelled, "--out", out / "evaluation.json", *UNEVEN, "--json"),
            "train": (*TASK, "--out", out / "base"),
            "refuse": (*TASK, "--out", out / "base", "--set", "train.lr=9.0"),
        }
        launch(out, jobs)

    return built(tmp_path_factory, "together", build)

"""Where the fixtures are: in support/shared_fixtures.py, for the processes that run tests.

The one that only hands tests out to them is ready seconds earlier without torch.
"""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; there are as many test workers as cores


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses"):
        config.pluginmanager.import_plugin("shared_fixtures")

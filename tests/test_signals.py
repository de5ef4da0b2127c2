"""Signals that ask a long job to stop."""

import signal
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from reflow.__main__ import _leave
from reflow.signals import INSISTING, STOPPING, heed, watching_signals


class Left(Exception):  # noqa: N818
    pass


def leave(number: int, frame: FrameType | None) -> None:
    raise Left(number, frame)


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """Have all signals handled as before a long job, and as they were after the test."""
    before = {number: signal.signal(number, leave) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_each_of_them_is_noted_and_then_handled_as_before(number: signal.Signals) -> None:
    with watching_signals() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
    with pytest.raises(Left):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", STOPPING)
def test_only_who_insists_kills(number: signal.Signals) -> None:
    """A closed terminal sends SIGHUP twice, from the shell and from the system."""
    with watching_signals() as stop:
        signal.raise_signal(number)
        if number in INSISTING:
            with pytest.raises(Left):
                signal.raise_signal(number)
        else:
            signal.raise_signal(number)
        assert stop.signal == number


def test_the_first_signal_is_the_reason() -> None:
    """A scheduler warns, and then ends the job."""
    with watching_signals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal == signal.SIGUSR1


@pytest.mark.parametrize("number", STOPPING)
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    heed(leave)
    with watching_signals() as stop:
        signal.raise_signal(number)
        assert stop.signal is None
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_command_with_nothing_to_save_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reflow", "evaluate", "base", "--fresh"])
    with pytest.raises(SystemExit) as left:
        _leave(signal.SIGTERM, None)
    assert left.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "reflow: interrupted. Resume with: reflow evaluate base\n"

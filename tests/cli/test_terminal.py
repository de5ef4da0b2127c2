"""Standard error never fails, standard output says that it did."""

import errno
import io
import os
import subprocess
import sys

import pytest

from reflow.terminal import MOST_WAITING, Meter, StandardError, StandardOutput, Unprinted, say


class Disk(io.StringIO):
    """A stream on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_what_could_not_be_told_comes_before_what_is_told_next() -> None:
    disk = Disk()
    stream = StandardError(disk)  # type: ignore[arg-type]
    stream.write("a\n")
    disk.full = True
    stream.write("b\n")
    stream.write("c\n")
    assert disk.getvalue() == "a\n"
    disk.full = False
    stream.write("d\n")
    assert disk.getvalue() == "a\nb\nc\nd\n"


def test_what_waits_takes_no_more_than_its_room() -> None:
    disk = Disk()
    disk.full = True
    stream = StandardError(disk)  # type: ignore[arg-type]
    for number in range(MOST_WAITING + 5):
        stream.write(f"{number}\n")
    disk.full = False
    stream.flush()
    assert disk.getvalue().split() == [str(number) for number in range(5, MOST_WAITING + 5)]


def test_a_pipe_that_is_full_and_does_not_block_gets_every_byte_once() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w") as file:
        stream = StandardError(file)
        lines = [f"{number:0999}\n" for number in range(200)]  # of which a pipe holds 65
        for line in lines:
            stream.write(line)
        found = b""
        while len(found) < sum(map(len, lines)):
            found += os.read(reader, 10_000)
            stream.flush()
    os.close(reader)
    assert found.decode() == "".join(lines)


def test_signs_that_a_terminal_does_not_have_are_told_in_others() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii") as file:
        StandardError(file).write("2 ± 1\n")
    assert os.read(reader, 100) == rb"2 \xb1 1" + b"\n"
    os.close(reader)


def test_progress_goes_on_without_a_place_to_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(sys, "stderr", StandardError(disk))  # type: ignore[arg-type]
    disk.full = True
    with Meter("couple", 2, "pairs") as meter:
        meter.update(1)
        meter.update(2)
    say("done")
    disk.full = False
    sys.stderr.flush()
    assert [line.split()[0] for line in disk.getvalue().splitlines()] == ["couple:", "couple:", "done"]


def test_a_result_that_is_not_printed_is_an_error_once() -> None:
    disk = Disk()
    disk.full = True
    stream = StandardOutput(disk)  # type: ignore[arg-type]
    with pytest.raises(Unprinted, match="standard output cannot be written: No space left on device"):
        stream.write("a\n")
    stream.flush()  # as the interpreter does at its end
    disk.full = False
    with pytest.raises(Unprinted, match="Bad file descriptor"):
        StandardOutput(disk, closed=True).write("a\n")  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "shown"), [([], False), (["--debug"], True)])
def test_warnings_of_libraries_are_for_developers(options: list[str], shown: bool) -> None:
    program = (
        "import sys, warnings\n"
        "import reflow.__main__ as program\n"
        "program.app = lambda **how: warnings.warn('invalid value', RuntimeWarning)\n"
        "program.main()"
    )
    command = [sys.executable, "-c", program, "inspect", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("RuntimeWarning: invalid value" in ended.stderr) == shown
    assert shown or not ended.stderr

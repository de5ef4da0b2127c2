"""Processes that decode: killed ones leave nothing wrong, and those at the same time do it once."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from files import GREY, RGB, channels_first, folder, in_every_format, load, refused, write

from reflow.data import decoding
from reflow.errors import ReflowError

# Opens argv[1], by other processes if there is an argv[2]. Says what it does, and when it has decoded the
# first images goes on only when it gets a line.
BUILDER = """
import sys
from reflow.data import Watch, decoding, fingerprint, open_data
from reflow.recipes.recipe import DataSettings

said = set()

def say(line):
    print(line, flush=True)

def progress(what, done, total, unit):
    doing = what.split()[0]
    if doing not in said:
        say(doing)
        said.add(doing)
        if doing == "decode":
            sys.stdin.readline()

if __name__ == "__main__":
    fingerprint.SETTLED_NS = 0
    if sys.argv[2:]:
        decoding.PARALLEL_BYTES, decoding.processors = 0, lambda: 2
    say(open_data(DataSettings(source=sys.argv[1]), 0, Watch(progress, say)).digest())
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


Builder = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def builder(tmp_path: Path, place: Path) -> Builder:  # noqa: ARG001 (the environment is inherited)
    """Start processes that open a source and stop on the way."""
    script = tmp_path / "builder.py"
    script.write_text(BUILDER)

    def start(source: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(source), *options]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def children(process: subprocess.Popen[str]) -> list[Path]:
    """Return the processes below a process, at any depth."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    found = [process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [Path(f"/proc/{pid}") for pid in found[1:]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_is_made_anew_and_nothing_of_it_stays(
    tmp_path: Path, place: Path, builder: Builder, number: int
) -> None:
    source = folder(tmp_path / "f")
    with builder(source) as process:
        assert [line(process), line(process)] == ["read", "decode"]
        assert len(list(place.glob("*.part"))) == 1
        process.send_signal(number)
    assert not list(place.glob("*.safetensors"))
    np.testing.assert_array_equal(load(source).values, channels_first(RGB))
    assert not list(place.glob("*.part"))


def test_processes_that_decode_end_with_the_one_that_was_killed(tmp_path: Path, builder: Builder) -> None:
    source = folder(tmp_path / "f")
    with builder(source, "parallel") as process:
        assert [line(process), line(process)] == ["read", "decode"]
        decoders = children(process)
        assert len(decoders) >= 2  # one of them tracks resources
        process.kill()
    deadline = time.monotonic() + 20
    while any(decoder.exists() for decoder in decoders):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_that_start_together_decode_once(tmp_path: Path, place: Path, builder: Builder) -> None:
    source = folder(tmp_path / "f")
    with builder(source) as first:
        assert [line(first), line(first)] == ["read", "decode"]
        with builder(source) as second:
            assert line(second) == f"{source} is being decoded by another process: waiting for it"
            assert second.poll() is None
            first.stdin.write("\n")  # type: ignore[union-attr]
            first.stdin.flush()  # type: ignore[union-attr]
            assert line(first) == line(second) == f"{source}: 4 images of 32 x 32, rgb; no classes"
            assert line(first) == line(second) == load(source).digest()
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(list(place.glob("*.safetensors"))) == 1


def test_one_that_waited_for_a_killed_one_decodes(tmp_path: Path, builder: Builder) -> None:
    source = folder(tmp_path / "f")
    with builder(source) as first:
        assert [line(first), line(first)] == ["read", "decode"]
        with builder(source) as second:
            assert "waiting" in line(second)
            first.kill()
            assert [line(second), line(second)] == ["read", "decode"]
            second.communicate("\n")
            assert second.returncode == 0


@pytest.mark.usefixtures("place")
def test_no_memory_of_the_size_of_the_data_is_taken_by_other_processes(tmp_path: Path) -> None:
    """Decoded images wait for one another: never more than a few blocks per process."""
    source = tmp_path / "f"
    source.mkdir()
    folder(source, np.zeros((1, 128, 128, 3), np.uint8))
    for row in range(1, 1000):
        (source / f"{row:04}.png").hardlink_to(source / "000.png")
    code = (
        "import sys, time\n"
        "from reflow.data import decoding, open_data\n"
        "from reflow.recipes.recipe import DataSettings\n"
        "def anonymous():\n"
        "    text = open('/proc/self/status').read()\n"
        "    return int(text.partition('RssAnon:')[2].split()[0])\n"
        "peak = []\n"
        "def watch(what, done, *_):\n"
        "    peak.append(anonymous())\n"
        "    time.sleep(0.01 if 'decode' in what else 0)\n"  # a slow disk: those that decode are faster
        "if __name__ == '__main__':\n"
        "    from reflow.data import Watch\n"
        "    decoding.PARALLEL_BYTES, decoding.processors = 0, lambda: 2\n"
        "    open_data(DataSettings(source=sys.argv[1]), 0, Watch(watch))\n"
        "    print(max(peak) - peak[0])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    answer = subprocess.run([sys.executable, script, source], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 20_000  # kB, of 49 MB


@pytest.mark.parametrize("kind", ["folder", "npz", "zip", "idx"])
def test_other_processes_decode_the_same_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = in_every_format(tmp_path)[kind]
    if kind == "folder":
        for row in range(4, 40):
            write(source / f"{row:03}.png", RGB[row % 4] if row == 35 else np.roll(GREY[0], row))
        (source / "017.png").write_bytes(b"")
    expected = load(source, size=16, skip_corrupt=True).values.copy()
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(decoding, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(decoding, "processors", lambda: 2)
    np.testing.assert_array_equal(load(source, size=16, skip_corrupt=True).values, expected)
    if kind == "folder":
        assert len(expected) == 39
        refused(source, "017.png", size=16)


def test_a_message_that_refuses_is_the_same_from_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "f")
    (source / "001.png").write_bytes(b"")
    messages = []
    for limit in (decoding.PARALLEL_BYTES, 0):
        monkeypatch.setattr(decoding, "PARALLEL_BYTES", limit)
        monkeypatch.setattr(decoding, "processors", lambda: 2)
        with pytest.raises(ReflowError) as caught:
            load(source)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]

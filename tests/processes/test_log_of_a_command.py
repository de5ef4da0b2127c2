"""A command writes to a log that lies in its output directory."""

import subprocess
import sys
from pathlib import Path


def test_the_log_that_a_command_speaks_to_is_no_stranger(tmp_path: Path) -> None:
    """It may hold lines before the stage begins: torchrun's warnings, for one."""
    program = (
        "import sys; from pathlib import Path; from reflow.artifacts.stage_directory import claim\n"
        "with claim(Path(sys.argv[1]), 'model', fresh=False): pass"
    )
    with (tmp_path / "log.txt").open("w") as log:
        log.write("a warning\n")
        log.flush()
        subprocess.run([sys.executable, "-c", program, tmp_path], stdout=log, stderr=log, check=True)
    assert (tmp_path / "log.txt").read_text() == "a warning\n"

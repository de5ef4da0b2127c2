"""What commands and the package import, in processes of their own."""

import subprocess
import sys

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "PIL", "sklearn"}


COMMANDS = ("train", "average", "couple", "distill", "sample", "evaluate", "compare", "report", "inspect")
HELP = f"""
import contextlib, io, sys
from reflow.__main__ import main

for command in ([], *([name] for name in {COMMANDS})):
    sys.argv = ["reflow", *command, "--help"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as leave:
            assert not leave.code, command
    assert "Usage: reflow" in said.getvalue(), command
    heavy = {{module.split(".")[0] for module in sys.modules}} & {HEAVY}
    assert not heavy, (command, heavy)
"""


def test_help_answers_without_heavy_imports() -> None:
    subprocess.run([sys.executable, "-c", HELP], check=True)


def test_the_package_resolves_its_public_names_lazily() -> None:
    code = "import sys, reflow; assert 'torch' not in sys.modules; reflow.load_model; reflow.integrate"
    subprocess.run([sys.executable, "-c", code], check=True)

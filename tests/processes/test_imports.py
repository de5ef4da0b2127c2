"""What commands and the package import, in processes of their own."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "PIL", "sklearn"}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["average"],
        ["couple"],
        ["distill"],
        ["sample"],
        ["evaluate"],
        ["compare"],
        ["report"],
        ["inspect"],
    ],
)
def test_help_answers_without_heavy_imports(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['reflow', *{command!r}, '--help']\n"
        "from reflow.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as leave: assert not leave.code\n"
        "print('LOADED', *sorted(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, loaded = answer.stdout.partition("LOADED")
    assert "Usage: reflow" in text
    assert not {module for module in loaded.split() if module.split(".")[0] in HEAVY}


def test_the_package_resolves_its_public_names_lazily() -> None:
    code = "import sys, reflow; assert 'torch' not in sys.modules; reflow.load_model; reflow.integrate"
    subprocess.run([sys.executable, "-c", code], check=True)

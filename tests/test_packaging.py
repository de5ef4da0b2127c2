"""What the package declares is what it imports, and its version stands in one place or is held equal."""

import ast
import re
import sys
import tomllib
from pathlib import Path

from reflow import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DISTRIBUTIONS = {"PIL": "pillow", "torch_fidelity": "torch-fidelity"}  # where the module has another name


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement)[0].lower()


def imported() -> set[str]:
    """Return the distributions whose modules the package imports, at the top or inside functions."""
    found = set()
    for path in (ROOT / "reflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return {DISTRIBUTIONS.get(name, name) for name in found - sys.stdlib_module_names - {"reflow"}}


def test_every_dependency_is_imported_and_every_import_declared() -> None:
    core = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    extras = {name_of(one) for extra in PROJECT["optional-dependencies"].values() for one in extra}
    assert core <= imported()
    assert imported() <= core | extras


def test_the_citation_has_the_version_of_the_package() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")

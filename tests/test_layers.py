"""The architecture holds: imports go down only, and asking for help is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "reflow"
LAYERS = [  # from the top; a module imports its own part or lower layers
    ["__main__"],
    ["cli"],
    ["options", "arguments"],
    ["stages"],
    ["training", "sweep"],
    ["followers"],
    ["reporting", "states", "log", "validation"],
    ["fit", "distillation"],
    ["ahead", "tally", "parallel", "weighting"],
    ["mixtures", "crew"],
    ["generation", "lineage", "survey", "shelf", "collapse"],
    ["metrics", "cost"],
    ["transport"],
    ["models", "couplings", "solvers", "data"],
    ["shardset", "snapshots"],
    ["pairs", "workspace", "finished", "outputs", "devices", "ema", "averages", "interruption"],
    ["shards"],
    ["artifacts"],
    ["times", "distances", "perceptual", "permutations", "pixels", "guidance", "distributed"],
    ["flow"],
    ["draws"],
    ["noise", "moving", "borrowed"],
    ["config", "recipes"],
    ["settings"],
    ["architectures", "hyperparameters"],
    ["sections"],
    ["errors"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "numpy", "scipy", "matplotlib", "PIL", "sklearn"}


def imported(path: Path) -> set[str]:
    """Return the parts of reflow that a module names in any import, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "reflow":
                names = [f"reflow.{alias.name}" for alias in node.names if alias.name != "__version__"]
        found |= {name.split(".")[1] for name in names if name.startswith("reflow.")}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = part(path)
    for other in imported(path):
        assert other == own or RANK[other] > RANK[own], f"{own} imports {other}"


def test_every_module_has_a_layer() -> None:
    assert {part(path) for path in MODULES} == set(RANK)


def test_stages_never_import_each_other() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        assert "stages" not in imported(path), path


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

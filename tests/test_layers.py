"""The architecture holds: imports go down, files and functions are small, and help is cheap."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "reflow"
LAYERS = """
    __main__
    cli
    stages
    inputs, report
    evaluation, pairs
    metrics, training
    cost, objectives, sampling
    couplings, data, guidance, models, precision, signals, solvers
    flow, pixels
    artifacts, randomness
    devices, distributed, extras, recipes
    errors, pictures, terminal
"""  # from the top; a part imports itself and lower rows
ROWS = [row.split(", ") for row in LAYERS.split("\n    ")[1:]]
RANK = {name.strip(): rank for rank, names in enumerate(ROWS) for name in names}
LONGEST_FILE, LONGEST_FUNCTION = 300, 60  # lines
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of reflow that a module names in any import, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("reflow."))
        elif isinstance(node, ast.ImportFrom) and node.module == "reflow":
            yield from (f"reflow.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("reflow."):
            yield node.module


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    return {module.split(".")[1] for module in imported(path)}


def test_the_package_is_the_twelve_rows() -> None:
    assert len(ROWS) == 12
    assert {part(path) for path in MODULES} == set(RANK)


def test_imports_go_down_only() -> None:
    violations = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in MODULES
        for other in sorted(parts_imported(path))
        if other != part(path) and RANK[other] <= RANK[part(path)]
    ]
    assert not violations


def test_no_cycle_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        graph.setdefault(part(path), set()).update(parts_imported(path) - {part(path)})
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)  # a cycle raises


def test_stages_never_import_each_other() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        assert "stages" not in parts_imported(path), path


def test_files_and_functions_are_small() -> None:
    long = []
    for path in MODULES:
        text = path.read_text()
        if (lines := text.count("\n")) > LONGEST_FILE:
            long.append(f"{path.relative_to(PACKAGE)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(PACKAGE)}: {node.name} has {lines} lines")
    assert not long

"""compare: how two evaluations differ, beside the noise of sampling."""

from pathlib import Path

from reflow.evaluation.comparison import compared, to_text
from reflow.evaluation.results import read_evaluation, to_json


def run(first: Path, second: Path, *, as_json: bool) -> str:
    """Return the differences in lines, or as JSON."""
    found = compared(read_evaluation(first), read_evaluation(second), (first, second))
    return to_json(found) if as_json else to_text(found)

"""What compare says of two evaluations: differences, their noise, and what cannot be compared."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from commands import Command, one_line

from reflow.errors import ReflowError
from reflow.evaluation.comparison import compared

PATHS = (Path("a.json"), Path("b.json"))


def figure(
    nfe: float, frechet: float, noise: float = 3.0, tolerance: float | None = None
) -> dict[str, Any]:
    return {
        "nfe": nfe,
        "solver": "euler" if tolerance is None else "adams",
        "tolerance": tolerance,
        "frechet_classifier": frechet,
        "kernel_classifier": 0.5,
        "kernel_classifier_spread": 0.1,
        "noise": {"frechet_classifier": noise, "kernel_classifier": 0.1},
    }


def model(path: str, digest: str, *figures: dict[str, Any], straight: float | None = 0.2) -> dict[str, Any]:
    return {"path": path, "sha256": digest, "figures": list(figures), "straightness": straight}


def evaluation(*models: dict[str, Any]) -> dict[str, Any]:
    protocol = {"samples": 40, "noise": {"seed": 0}}
    features = {"name": "classifier", "sha256": "f"}
    return {"schema": 2, "protocol": protocol, "features": features, "models": list(models)}


def test_differences_stand_beside_the_noise_of_both() -> None:
    first = evaluation(model("x/base", "1", figure(1, 50, 3), figure(4, 20, 3), figure(9.5, 10, 3, 0.1)))
    second = evaluation(model("y/base", "2", figure(1, 60, 4), figure(4, 45, 4), figure(8.5, 11, 4, 0.1)))
    (found,) = compared(first, second, PATHS)["models"]
    assert (found["first"], found["second"], found["same"]) == ("x/base", "y/base", False)
    told = [row["of"]["frechet_classifier"] for row in found["figures"]]
    assert [one["difference"] for one in told] == [10, 25, 1]
    assert [one["noise"] for one in told] == [5, 5, 5]
    assert [one["within_noise"] for one in told] == [False, False, True]  # 10 is two errors
    assert found["straightness"] == [0.2, 0.2]
    assert found["figures"][0]["of"].keys() == {"frechet_classifier", "kernel_classifier"}
    kernel = found["figures"][0]["of"]["kernel_classifier"]
    assert kernel["noise"] == pytest.approx(0.1 * math.sqrt(2))
    assert kernel["within_noise"]


def test_models_are_matched_by_digest_then_by_folder_then_as_the_only_ones() -> None:
    a, b, c = (model(f"x/{name}", name, figure(1, 50)) for name in "abc")
    renamed = model("y/b", "a", figure(1, 50))  # the model a, in a folder called b
    found = compared(evaluation(a, b, c), evaluation(renamed, model("y/c/model.safetensors", "9")), PATHS)
    assert [(one["first"], one["second"]) for one in found["models"]] == [
        ("x/a", "y/b"),
        ("x/c", "y/c/model.safetensors"),
    ]
    assert (found["only_first"], found["only_second"]) == (["x/b"], [])
    (only,) = compared(evaluation(a), evaluation(model("z/q", "7", figure(1, 50))), PATHS)["models"]
    assert (only["first"], only["second"]) == ("x/a", "z/q")
    with pytest.raises(ReflowError, match="no model in common"):
        compared(evaluation(a, b), evaluation(model("z/q", "7")), PATHS)


@pytest.mark.parametrize("key", ["protocol.samples", "protocol.noise.seed", "features.sha256"])
def test_evaluations_by_other_protocols_are_refused(key: str) -> None:
    first = evaluation(model("x/a", "a", figure(1, 50)))
    second = copy.deepcopy(first)
    *path, last = key.split(".")
    inner = second
    for part in path:
        inner = inner[part]
    inner[last] = "other"
    with pytest.raises(
        ReflowError, match=f"a.json and b.json cannot be compared, for they differ in {key};"
    ):
        compared(first, second, PATHS)


def test_compare_prints_a_line_for_each_method_and_marks_chance(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    quick = ("--set", "evaluate.straightness_samples=2", "--nfe", "1,2")
    for name, models in {"a": ["base"], "b": ["reflow"], "c": ["base"]}.items():
        folders = [chain / model for model in models]
        answer = reflow("evaluate", *folders, *quick, "--out", tmp_path / f"{name}.json")
        assert answer.code == 0, answer.err
    same = reflow("compare", tmp_path / "a.json", tmp_path / "c.json")
    rows = [line.split() for line in same.out.splitlines() if str(chain) in line]
    assert [row[1] for row in rows[:3]] == ["1", "2", "8"]
    assert all(row.count("+0") == row.count("≈") == len(row) // 4 for row in rows[:3])
    other = reflow("compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    a, b = (json.loads((tmp_path / f"{name}.json").read_text())["models"][0] for name in "ab")
    found = json.loads(other.out)["models"][0]["figures"][1]["of"]["sliced_wasserstein"]
    before, after = (one["figures"][1] for one in (a, b))
    assert found["difference"] == after["sliced_wasserstein"] - before["sliced_wasserstein"]
    wanted = math.hypot(*(one["noise"]["sliced_wasserstein"] for one in (before, after)))
    assert found["noise"] == pytest.approx(wanted)


def test_files_that_are_no_evaluations_are_refused(reflow: Command, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"schema": 1}))
    for name, said in {
        "old": "not an evaluation of schema 2",
        "absent": "absent.json cannot be read",
    }.items():
        path = tmp_path / f"{name}.json"
        assert said in one_line(reflow("compare", path, path))

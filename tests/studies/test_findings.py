"""The arithmetic of the study's tables."""

import json
from pathlib import Path
from typing import Any

import pytest
from findings import NOISE, Row, difference, line, peers, spread, tables, within_noise
from study import Study

SEEDS = (0, 1, 2)


def test_spread_and_noise_are_those_of_paired_seeds() -> None:
    values = {0: 10.0, 1: 12.0, 2: 14.0}
    assert spread(values) == "12 ± 2"
    assert spread({0: 10.0}) == "10"
    mean, error = difference(values, {0: 9.0, 1: 12.0, 2: 12.0}) or (0, 0)
    assert (mean, error) == pytest.approx((1, 1 / 3**0.5))  # 1, 0, 2: a deviation of 1
    assert within_noise(values, {0: 9.0, 1: 12.0, 2: 12.0})
    assert not within_noise(values, {0: 9.0, 1: 10.5, 2: 12.0})  # 1, 1.5, 2: 1.5 against 0.29
    assert not within_noise(values, {0: 9.0, 5: 12.0})  # one seed in common says nothing


def figures(nfe: dict[int, float], stage: str, straightness: float | None) -> dict[str, Any]:
    """Return a model's part of an evaluation, with a figure at a tolerance that tables leave out."""
    each = [
        {"nfe": float(n), "tolerance": None, "frechet_classifier": f, "recall": 0.5 + n / 1000}
        for n, f in nfe.items()
    ]
    each.append({"nfe": 4.2, "tolerance": 2e-3, "frechet_classifier": 1e9, "recall": 0.1})
    return {"stage": stage, "figures": each, "straightness": straightness}


def write(path: Path, floor: float, *models: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"floor": {"frechet_classifier": floor}, "models": list(models)}
    path.write_text(json.dumps(content))


def test_tables_compare_with_the_recipe_and_the_floor(tmp_path: Path) -> None:
    study = Study("digits", (), tmp_path)
    chosen = study.variants(["base", "2-rectified", "times-u4"])
    (base,), (reflow, student) = chosen["base"].models, chosen["2-rectified"].models
    for seed in SEEDS:
        folder = study.folder(seed, base).parent
        for model, nfe in (
            (base, {16: 40.0, 100: 30.0 + seed}),
            (student, {1: 45.0 + seed}),
            (reflow, {2: 60.0}),
        ):
            write(folder / f"{model.name(study.text)}.evaluation.json", 15.0, figures(nfe, "", None))
        for model in base.ancestry():
            noted = [{"seconds": 9, "processor": 4, "exit": 130}, {"seconds": 9, "processor": 6, "exit": 0}]
            (folder / f"{model.name(study.text)}.times.json").write_text(json.dumps(noted))
        other = chosen["times-u4"].models[0]
        write(
            folder / f"{other.name(study.text)}.evaluation.json", 15.0, figures({2: 60.0 + seed}, "", 0.1)
        )
    text = tables(tmp_path, chosen, study.text, SEEDS)
    assert "held-out data (floor): 15 ± 0." in text
    assert "| base at 100 / floor | 2.067 ± 0.067 | 2, 2.07, 2.13 |" in text
    assert "| distilled at 1 / base at 100 | 1.484 ± 0.016 | 1.5, 1.48, 1.47 |" in text
    assert "| base | base |  |  |  | 40 ± 0 | 31 ± 1 |  | 0.516 ± 0 |  | 10 ± 0 | 3 |" in text
    assert (
        f"| times-u4 | reflow |  | 61 ± 1 {NOISE} |  |  |  |  | 0.502 ± 0 | 0.1 ± 0 |  | 3 |" in text
    )  # 1 ± 0.58
    assert text.index("| 2-rectified | reflow |  | 60", text.index("Distribution of t")) < text.index(
        "times-u4"
    )


def test_evaluations_of_both_schemas_are_read(tmp_path: Path) -> None:
    study = Study("digits", (), tmp_path)
    chosen = study.variants(["base"])
    (base,) = chosen["base"].models
    for seed, schema in enumerate((1, 2)):
        found = figures({100: 30.0 + seed}, "train", 0.1)
        more = {"kernel_classifier": 1.0, "density": 0.9, "noise": {"frechet_classifier": 2.0}}
        floor = {"frechet_classifier": 15.0, "recall": 0.9}
        if schema == 2:
            floor |= {"samples": 5, **more}
            for figure in found["figures"]:
                figure |= more
        content = {"schema": schema, "floor": floor, "models": [found]}
        path = study.folder(seed, base).parent / f"{base.name(study.text)}.evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    text = tables(tmp_path, chosen, study.text, (0, 1))
    assert "held-out data (floor): 15 ± 0." in text
    assert "| base | base |  |  |  |  | 30.5 ± 0.71 |" in text


def test_peers_are_compared_with_our_student(tmp_path: Path) -> None:
    for seed in (0, 1):
        path = tmp_path / f"seed-{seed}" / "peer-them.evaluation.json"
        write(path, 15.0, figures({}, "train", 0.2), figures({1: 50.0 + 4 * seed}, "reflow", 0.1))
        phases = [{"phase": "train", "seconds": 5.0}, {"phase": "couple + reflow", "seconds": 2.0}]
        path.with_name("peer-them.times.json").write_text(json.dumps(phases))
    base, reflow = peers(tmp_path, (0, 1, 2))
    assert (base.kind, base.cells["seconds"][0], reflow.cells["seconds"][0]) == ("base", 5, 7)
    ours = Row("2-rectified", "distill", {"1": {0: 40.0, 1: 42.0}})
    assert line(reflow, {"distill": ours}, ours)[7] == "+11 ± 1"

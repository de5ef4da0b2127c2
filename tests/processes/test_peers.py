"""The peers of .venv-bench, trained in processes of their own."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import TINY
from findings import peers

from reflow.models import load_model

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not find_spec("rectified_flow_pytorch"), reason="the peers are in .venv-bench")
def test_peers_leave_models_of_ours_and_their_figures(tmp_path: Path) -> None:
    names = ["lucidrains-our-optimiser", "official-recipe"]
    options = ["--out", tmp_path, "--seeds", "3", "--seconds", "0.3,0.1,0.2,0.1", "--only", *names]
    command = [sys.executable, ROOT / "studies" / "pipelines.py", "--recipe", TINY, *options]
    subprocess.run(command, check=True, capture_output=True)
    rows = {(row.variant, row.kind): row.cells for row in peers(tmp_path, [3])}
    assert [kind for name, kind in rows if name == names[0]] == ["base", "reflow"]
    assert [kind for name, kind in rows if name == names[1]] == ["base", "reflow", "distill"]
    assert all(row["1"][3] > 0 for row in rows.values())
    assert rows[names[1], "distill"]["seconds"][3] >= 0.7
    student = load_model(tmp_path / "seed-3" / f"peer-{names[1]}" / "distill")
    assert (student.student_steps, student.recipe.seed) == (1, 3)


@pytest.mark.skipif(not find_spec("torchcfm"), reason="the peers are in .venv-bench")
def test_networks_of_equal_cost_are_and_every_loop_trains(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    command = ["--brief", "--rounds", "1", "--sizes", "8x8", "--only", "loops", "networks", "--json", out]
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "train.py", *command], check=True, capture_output=True
    )
    loops, networks = (result["found"] for result in json.loads(out.read_text())["results"])
    assert len(loops) == 5
    ours = networks["defined"]["reflow"]
    for peer in ("torchcfm UNetModel", "diffusers UNet2DModel"):
        for what in ("parameters", "operations"):
            assert networks["defined"][peer][what] == pytest.approx(ours[what], rel=0.03)
            assert networks["done"][peer][what] == networks["defined"][peer][what]
    assert networks["done"]["reflow"]["operations"] < 0.95 * ours["operations"]

"""Training that starts from other weights than the tool's own."""

import sys
from pathlib import Path

import initial
import pytest
import torch

from reflow.artifacts import read_artifact
from reflow.inputs import copy_of, recipe_of
from reflow.models import load_model
from reflow.stages import distill, reflow


@pytest.mark.parametrize(("stage", "spans"), [("reflow", False), ("distill", False), ("distill", True)])
def test_training_can_start_from_raw_and_from_fresh_weights(
    chain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    spans: bool,
) -> None:
    for module in (reflow, distill):
        monkeypatch.setattr(module, "copy_of", copy_of)  # so that it is put back
    start = {"reflow": ("train", "--init", chain / "base"), "distill": ("distill", chain / "base")}[stage]
    teacher, (_, state) = (
        load_model(chain / "base"),
        read_artifact(chain / "base/state.safetensors", "state"),
    )
    monkeypatch.setattr(sys, "argv", ["reflow"])
    pairs = ("--pairs", chain / "pairs")
    for how in ("raw", "fresh"):
        command = (*start, *pairs, "--out", tmp_path / how)
        still = (f"{stage}.steps=1", f"{stage}.lr=1e-12", *(["distill.objective=meanflow"] * spans))
        words = [str(word) for change in still for word in ("--set", change)]
        with pytest.raises(SystemExit) as leave:
            initial.run(how, [*map(str, command), *words])
        assert not leave.value.code
    raw, fresh = (load_model(tmp_path / how).net.state_dict() for how in ("raw", "fresh"))
    anew = initial.fresh(teacher, recipe_of(teacher, {}).model, spans=spans).state_dict()
    average = teacher.net.state_dict()
    for name in average:
        torch.testing.assert_close(raw[name], state[f"raw.{name}"])
        torch.testing.assert_close(fresh[name], anew[name])
    assert not all(torch.allclose(raw[name], average[name]) for name in average)
    assert not all(torch.allclose(fresh[name], average[name]) for name in average)
    capsys.readouterr()

"""evaluate, given again: the same bytes, killed or not; anew only what follows from a change; refusals."""

import re
from pathlib import Path
from typing import Any

import pytest
from commands import Command, one_line, run_all

from reflow.evaluation import sweep as module
from reflow.evaluation.resume import PartialResults
from reflow.evaluation.samplers import Samplers

PLANE = ("train.steps=2", "model.width=8", "data.points=200", "couple.tolerance=0.1")
QUICK = ("samples=20", "projections=5", "straightness_samples=2", "straightness_tolerance=0.1")
LIKELY = ("likelihood_samples=4", "likelihood_tolerance=0.1")


def changed(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two steps of a model of points in the plane."""
    out = tmp_path_factory.mktemp("plane") / "base"
    evaluated = (f"evaluate.{change}" for change in (*QUICK, *LIKELY))
    run_all([("train", "gaussians", "--out", out, *changed(*PLANE, *evaluated))])
    return out


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is computed, as it happens, while finished results stay for ever."""
    notes: list[str] = []

    def note(name: str) -> None:
        real = getattr(Samplers, name)

        def noted(samplers: Samplers, *arguments: Any) -> Any:
            notes.append(name)
            return real(samplers, *arguments)

        monkeypatch.setattr(Samplers, name, noted)

    for name in ("samples", "flow", "likelihood"):
        note(name)
    monkeypatch.setattr(PartialResults, "clear", lambda _: None)
    return notes


ALL = ["samples", "samples", "flow", "likelihood"]


def test_only_what_follows_from_a_change_is_computed_anew(
    reflow: Command,
    plane: Path,
    tmp_path: Path,
    anew: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def computed(*changes: str, model: Path = plane) -> list[str]:
        anew.clear()
        command = ("evaluate", model, "--nfe", 1, "--likelihood", "--out", tmp_path / "e.json")
        answer = reflow(*command, *changed(*changes))
        assert answer.code == 0, answer.err
        return list(anew)

    assert computed() == ALL
    assert computed() == []
    for change in ("straightness_samples=3", "straightness_tolerance=0.2"):
        assert computed(f"evaluate.{change}") == ["flow"], change
    for change in ("likelihood_samples=5", "likelihood_tolerance=0.2", "likelihood_probes=1"):
        assert computed(f"evaluate.{change}") == ["likelihood"], change
    for change in ("seed=1", "evaluate.batch=7", "evaluate.samples=21", "evaluate.projections=6"):
        assert computed(change) == ALL, change
    run_all([("train", "gaussians", "--out", tmp_path / "other", *changed(*PLANE, "seed=1"))])
    assert (
        computed(*(f"evaluate.{change}" for change in (*QUICK, *LIKELY)), model=tmp_path / "other") == ALL
    )
    monkeypatch.setattr(module, "SCHEMA", 0)
    assert computed() == ALL


def test_progress_goes_on_from_what_was_finished(
    reflow: Command, plane: Path, tmp_path: Path, anew: list[str]
) -> None:
    command = ("evaluate", plane, "--out", tmp_path / "e.json", "--nfe")
    assert reflow(*command, "1").code == 0
    anew.clear()
    answer = reflow(*command, "1,2")
    assert anew == ["samples"]
    assert "evaluate: 3 of 4 parts are finished already; resuming" in answer.err
    last = [line for line in answer.err.splitlines() if line.startswith("evaluate: ")][-1]
    assert re.match(r"evaluate: (\d+)/\1 network evaluations", last)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--nfe", "1,x"), 2, "--nfe 1,x: write whole numbers above 0 with commas between, such as 1,2"),
        (("--nfe", "0"), 2, "--nfe 0: write whole numbers"),
        (("--nfe", "1.5"), 2, "--nfe 1.5: write whole numbers"),
        (("--nfe", ""), 2, "--nfe : write whole numbers"),
        (("--nfe", "1,3", "--solver", "heun"), 1, "a multiple of 2 network evaluations, not 1; give such"),
        (("--solver", "dopri5"), 2, "'--solver': 'dopri5' is not one of 'euler', 'midpoint', 'heun'"),
        (
            ("--tolerance", "-1"),
            2,
            "--tolerance -1: write numbers above 0 with commas between, such as 1e-2",
        ),
        (("--tolerance", "0.1,"), 2, "--tolerance 0.1,: write numbers"),
        (("--tolerance", "nan"), 2, "--tolerance nan: write numbers"),
        (("--tolerance", "inf"), 2, "--tolerance inf: write numbers"),
        (
            ("--features", "absent.pt"),
            1,
            "--features absent.pt cannot be read (No such file or directory); give",
        ),
        (("--features", "x.txt"), 1, "--features x.txt is of no known kind; give a TorchScript file (.pt)"),
        (
            ("--set", "evaluate.samples=1"),
            2,
            "evaluate.samples = 1: input should be greater than or equal to 2",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work_with_the_option_and_the_remedy(
    reflow: Command, plane: Path, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    answer = reflow("evaluate", plane, "--out", tmp_path / "e.json", *options)
    assert said in one_line(answer, code)
    assert "evaluate: " not in answer.err
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_refused_before_the_work(
    reflow: Command, plane: Path, tmp_path: Path
) -> None:
    model = plane / "model.safetensors"
    before = model.read_bytes()
    (tmp_path / "folder.json").mkdir()
    for out, code, said in (
        (model, 2, f"--out {model}: give a name that ends in .json"),
        (
            tmp_path / "folder.json",
            1,
            "cannot be written: Is a directory; free or choose another place (--out)",
        ),
        (model / "e.json", 1, "cannot be written: Not a directory; free or choose"),
        (
            "/proc/e.json",
            1,
            "/proc/e.json cannot be written: ",
        ),  # to nobody, whatever its permissions
    ):
        answer = reflow("evaluate", plane, "--out", out)
        assert said in one_line(answer, code)
        assert "evaluate: " not in answer.err
    assert model.read_bytes() == before


def test_a_single_held_out_sample_is_no_distribution(reflow: Command, tmp_path: Path) -> None:
    few = changed(*PLANE, "data.held_out=0.005")
    assert reflow("train", "gaussians", "--out", tmp_path / "base", *few).code == 0
    line = one_line(reflow("evaluate", tmp_path / "base", "--out", tmp_path / "e.json"))
    assert "trained with 1 samples held out" in line
    assert "--set data.held_out" in line

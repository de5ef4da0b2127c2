"""The study's commands, its queue, and the arithmetic of its tables."""

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import initial  # noqa: E402
from contests import Optimisation, Phases, Problem, regression_loss, velocity_loss  # noqa: E402
from findings import NOISE, Row, difference, line, peers, seconds_of, spread, tables, within_noise  # noqa: E402
from study import Job, Queue, Study  # noqa: E402
from variants import Chain, variants  # noqa: E402

from reflow.artifacts import read_artifact  # noqa: E402
from reflow.config import override, read_recipe  # noqa: E402
from reflow.errors import ReflowError  # noqa: E402
from reflow.flow import Pair  # noqa: E402
from reflow.lineage import copy_of, recipe_of  # noqa: E402
from reflow.models import load_model  # noqa: E402
from reflow.stages import distill, train  # noqa: E402

SEEDS = (0, 1, 2)
DIGITS = read_recipe("digits")
AHEAD: tuple[str, ...] = ()


def commands(study: Study, *names: str) -> list[list[str]]:
    """Return the commands of variants, without the interpreter and the folder."""
    found = [job.command[1:] for job in study.plan([7], names)]
    return [[word.replace(f"{study.out}/seed-7/", "") for word in words] for words in found]


def test_the_pipeline_is_the_commands_that_a_user_would_type(tmp_path: Path) -> None:
    study = Study("digits", ("train.steps=9",), tmp_path)
    base, pairs, reflow, student = (
        stage.name(study.text) for stage in Chain().under(study.settings).values()
    )
    tool, figures = ["-m", "reflow"], ["--nfe", "1,2,4,16,100", "--data", "digits", "--out"]
    made = ["--seed", "7", "--set", "train.steps=9", "--out"]
    assert commands(study, "base", "2-rectified") == [
        [*tool, "train", "digits", *made, base],
        [*tool, "evaluate", base, *figures, f"{base}.evaluation.json"],
        [*tool, "couple", base, "--out", pairs],
        [*tool, "train", "--pairs", pairs, "--init", base, "--out", reflow],
        [*tool, "evaluate", reflow, *figures, f"{reflow}.evaluation.json"],
        [*tool, "distill", reflow, "--pairs", pairs, "--out", student],
        [*tool, "evaluate", student, *figures, f"{student}.evaluation.json"],
    ]


def test_the_third_round_mixes_inverted_real_pairs(tmp_path: Path) -> None:
    study = Study("digits", (), tmp_path)
    found = commands(study, "3-rectified-real")
    second = found[2][-1]
    generated, inverted = (words for words in found if words[2:4] == ["couple", second])
    assert inverted[4:7] == ["--invert", "--data", "digits"]
    mixed = next(words for words in found if "--weights" in words)
    sets = ["--pairs", generated[-1], "--pairs", inverted[-1]]
    assert mixed[2:-2] == ["train", *sets, "--weights", "0.8,0.2", "--init", second]


def test_direct_students_take_as_long_as_both_stages() -> None:
    (student,) = variants(DIGITS)["regress-from-base"].models
    assert student.model == Chain().under(DIGITS)["base"]
    steps = DIGITS.reflow.steps + 2 * DIGITS.distill.steps  # a step of mean flow takes the time of two
    assert student.changes[-1] == f"distill.steps={steps}"
    (student,) = variants(DIGITS)["meanflow-from-base"].models
    assert student.changes[-1] == f"distill.steps={steps // 2}"


def test_what_variants_share_is_run_once_and_before_what_needs_it(tmp_path: Path) -> None:
    jobs = Study("digits", (), tmp_path).plan([0, 1], [])
    targets = [job.target for job in jobs]
    assert len(set(targets)) == len(targets)
    assert all(targets.index(need) < targets.index(job.target) for job in jobs for need in job.needs)
    bases = [job for job in jobs if job.target.name.startswith("base-") and not job.needs]
    assert len(bases) == 4  # the recipe's and the one with transport, by two seeds


def test_a_change_that_the_recipe_has_anyway_is_no_other_stage() -> None:
    found = variants(DIGITS)
    own = found["2-rectified"].models
    assert found["times-u6"].models == found["tolerance-2e-3"].models == own
    assert found["times-u4"].models != own
    assert Chain(pairs=('couple.solver="euler"', "couple.tolerance=none")).under(DIGITS)["pairs"].changes


def test_another_recipe_has_other_folders() -> None:
    stage, other = Chain().under(DIGITS)["base"], override(DIGITS, ["distill.lr=5e-4"])
    assert stage.name(DIGITS.model_dump_json()) != stage.name(other.model_dump_json())


def test_the_settings_of_all_variants_exist() -> None:
    stages = {stage for v in variants(DIGITS).values() for model in v.models for stage in model.ancestry()}
    for changes in {stage.changes for stage in stages}:
        if not any(change.startswith(AHEAD) for change in changes):
            override(DIGITS, changes)


def test_an_unknown_variant_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ReflowError, match="none of base, 2-rectified"):
        Study("digits", (), tmp_path).variants(["5-rectified"])


def job(folder: Path, name: str, *needs: str, code: str = "", makes: bool = True) -> Job:
    """Return a job that leaves its name in a file `order`, and what it makes."""
    made = folder / name / "model.safetensors"
    order = f"open({str(folder / 'order')!r}, 'a').write({name!r})"
    make = f"p = Path({str(made)!r}); p.parent.mkdir(); p.touch()" if makes else ""
    script = f"import sys; from pathlib import Path\n{order}\n{make}\n{code}"
    return Job(folder / name, made, (sys.executable, "-S", "-c", script), tuple(folder / n for n in needs))


def queue(*jobs: Job, minutes: float = 1, workers: int = 2) -> Queue:
    """Return the queue after it has run."""
    found = Queue(jobs, threads=1, deadline=time.monotonic() + 60 * minutes)
    found.run(workers)
    return found


def test_jobs_wait_for_what_they_need_and_are_not_run_twice(tmp_path: Path) -> None:
    jobs = job(tmp_path, "a"), job(tmp_path, "b", "a"), job(tmp_path, "c", "b")
    assert not queue(*jobs).unmade
    assert (tmp_path / "order").read_text() == "abc"
    queue(*jobs, job(tmp_path, "d", "c"))
    assert (tmp_path / "order").read_text() == "abcd"


def test_a_failure_holds_back_only_what_needs_it(tmp_path: Path) -> None:
    failing = job(tmp_path, "a", code="sys.exit(1)", makes=False)
    found = queue(failing, job(tmp_path, "b", "a"), job(tmp_path, "c"))
    assert [failed.target.name for failed in found.failed] == ["a"]
    assert sorted((tmp_path / "order").read_text()) == ["a", "c"]
    assert found.unmade == {tmp_path / "a", tmp_path / "b"}


def test_nothing_starts_after_the_budget(tmp_path: Path) -> None:
    assert queue(job(tmp_path, "a"), minutes=0).unmade == {tmp_path / "a"}


def test_an_interrupted_command_stops_the_queue_and_its_seconds_add_up(tmp_path: Path) -> None:
    wait, stop, other = "import time; time.sleep(0.2)", "sys.exit(143)", job(tmp_path, "b")
    queue(job(tmp_path, "a", code=f"{wait}; {stop}", makes=False), other, workers=1)
    assert not queue(job(tmp_path, "a", code=wait), other, workers=1).unmade
    assert (tmp_path / "order").read_text() == "aab"
    first, second = json.loads((tmp_path / "a.times.json").read_text())
    assert (first["exit"], second["exit"]) == (143, 0)
    assert min(first["seconds"], second["seconds"]) >= 0.2
    assert first["processor"] < 0.2
    assert seconds_of(tmp_path / "a.times.json", "seconds") == first["seconds"] + second["seconds"]


def test_a_signal_reaches_what_is_running(tmp_path: Path) -> None:
    waiting = job(tmp_path, "a", code="import time; time.sleep(60)", makes=False)
    found = Queue([waiting, job(tmp_path, "b")], threads=1, deadline=float("inf"))
    before = signal.signal(signal.SIGALRM, lambda *_: found.stop(signal.SIGTERM, None))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    found.run(workers=1)
    signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "order").read_text() == "a"
    assert json.loads((tmp_path / "a.times.json").read_text())[0]["exit"] == -signal.SIGTERM


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
        for model, nfe in ((base, {100: 30.0 + seed}), (student, {1: 45.0 + seed}), (reflow, {2: 60.0})):
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
    assert "| base | base |  |  |  |  | 31 ± 1 |  | 0.6 ± 0 |  | 10 ± 0 | 3 |" in text
    assert (
        f"| times-u4 | reflow |  | 61 ± 1 {NOISE} |  |  |  |  | 0.502 ± 0 | 0.1 ± 0 |  | 3 |" in text
    )  # 1 ± 0.58
    assert text.index("| 2-rectified | reflow |  | 60", text.index("Law of t")) < text.index("times-u4")


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


def test_training_can_start_from_raw_and_from_fresh_weights(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in (train, distill):
        monkeypatch.setattr(stage, "copy_of", copy_of)  # so that it is put back
    teacher, (_, state) = (
        load_model(chain / "base"),
        read_artifact(chain / "base/state.safetensors", "state"),
    )
    monkeypatch.setattr(sys, "argv", ["reflow"])
    still = ["--set", "reflow.steps=1", "--set", "reflow.lr=1e-12"]
    for how in ("raw", "fresh"):
        command = ["train", "--pairs", chain / "pairs", "--init", chain / "base", "--out", tmp_path / how]
        with pytest.raises(SystemExit) as leave:
            initial.run(how, [*map(str, command), *still])
        assert not leave.value.code
    raw, fresh = (load_model(tmp_path / how).net.state_dict() for how in ("raw", "fresh"))
    anew = initial.fresh(teacher, recipe_of(teacher, []).model).state_dict()
    average = teacher.net.state_dict()
    for name, weight in raw.items():
        torch.testing.assert_close(weight, state[f"raw.{name}"])
        torch.testing.assert_close(fresh[name], anew[name])
    assert not all(torch.allclose(raw[name], average[name]) for name in raw)
    assert not all(torch.allclose(fresh[name], average[name]) for name in fresh)
    capsys.readouterr()


def test_peers_stop_when_their_time_is_over() -> None:
    ticks = iter(range(100))
    phases = Phases({"train": 4.0, "couple": 2.0}, lambda: float(next(ticks)))
    net = torch.nn.Linear(1, 1)
    how = Optimisation(0.1, 0, "linear", 1.0, lambda net: _Same(net))
    phases.fit(["train"], net, lambda: net(torch.ones(1, 1)).square().mean(), how)
    pairs = phases.collect(["couple"], lambda: Pair(torch.zeros(3, 2), torch.ones(3, 2)))
    assert [note.get("steps", note.get("pairs")) for note in phases.notes] == [3, 6]
    assert pairs.x1.shape == (6, 2)
    assert pairs.label is None


class _Same:
    """No average: the network itself."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.ema_model = net

    def update(self) -> None:
        """Follow."""


def test_the_losses_of_peers_vanish_for_exact_networks() -> None:
    pair = Pair(torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2))

    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
            return pair.x1 - pair.x0

    assert velocity_loss(Exact(), pair) == 0
    assert regression_loss(Exact(), pair) < 1e-12  # x0 + (x1 - x0) rounds
    drawn = Problem(read_recipe(str(TINY)), labelled=True).independent(4)
    assert drawn.x1.shape == drawn.x0.shape == (4, 1, 8, 8)
    assert drawn.label is not None
    assert drawn.x1.min() >= -1
    assert drawn.x1.max() <= 1


@pytest.mark.skipif(not find_spec("rectified_flow_pytorch"), reason="the peers are in .venv-bench")
def test_peers_leave_models_of_ours_and_their_figures(tmp_path: Path) -> None:
    names = ["lucidrains-our-optimiser", "official-recipe"]
    options = ["--out", tmp_path, "--seeds", "3", "--seconds", "0.3,0.1,0.2,0.1", "--only", *names]
    command = [sys.executable, BENCHMARKS / "pipelines.py", "--recipe", TINY, *options]
    subprocess.run(command, check=True, capture_output=True)
    rows = {(row.variant, row.kind): row.cells for row in peers(tmp_path, [3])}
    assert [kind for name, kind in rows if name == names[0]] == ["base", "reflow"]
    assert [kind for name, kind in rows if name == names[1]] == ["base", "reflow", "distill"]
    assert all(row["1"][3] > 0 for row in rows.values())
    assert rows[names[1], "distill"]["seconds"][3] >= 0.7
    student = load_model(tmp_path / "seed-3" / f"peer-{names[1]}" / "distill")
    assert (student.student_steps, student.recipe["seed"]) == (1, 3)

"""The study's commands and its queue."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest
from findings import seconds_of
from study import Job, Queue, Study
from variants import Chain, variants

from reflow.errors import ReflowError
from reflow.recipes.read import override, parse_overrides, read_recipe

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
    assert found["times-uniform"].models == found["tolerance-2e-3"].models == own
    assert found["times-u4"].models != own
    assert Chain(pairs=('couple.solver="euler"', "couple.tolerance=none")).under(DIGITS)["pairs"].changes


def test_another_recipe_has_other_folders() -> None:
    stage, other = Chain().under(DIGITS)["base"], override(DIGITS, parse_overrides(["distill.lr=5e-4"]))
    assert stage.name(DIGITS.model_dump_json()) != stage.name(other.model_dump_json())


def test_the_settings_of_all_variants_exist() -> None:
    stages = {stage for v in variants(DIGITS).values() for model in v.models for stage in model.ancestry()}
    for changes in {stage.changes for stage in stages}:
        if not any(change.startswith(AHEAD) for change in changes):
            override(DIGITS, parse_overrides(changes))


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

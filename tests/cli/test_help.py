"""Help, completion and refusals of the command line read well, and agree with the recipes."""

import re
from pathlib import Path
from typing import get_args

import pytest
from commands import Command, one_line

from reflow.cli.app import app
from reflow.recipes import choices
from reflow.recipes.read import built_in_recipes, known_settings

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)


def test_every_summary_fits_its_column_and_every_command_is_documented(reflow: Command) -> None:
    text = reflow("--help").out
    summaries = dict(re.findall(r"^  (\w+) {2,}(.+)$", text.partition("Commands:")[2], re.MULTILINE))
    assert sorted(summaries) == COMMANDS
    assert all(len(summary) <= 60 and "..." not in summary for summary in summaries.values())
    written = (ROOT / "README.md").read_text() + (ROOT / "docs" / "guide.md").read_text()
    assert all(f"reflow {command}" in written for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_narrow_and_its_usage_is_plain(reflow: Command, command: str) -> None:
    answer = reflow(command, "--help")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert all(len(line) <= 80 for line in lines if "|" not in line)  # a list of choices is not broken
    usage = answer.out.splitlines()[0]
    assert usage.startswith(f"Usage: reflow {command} [OPTIONS]")
    assert not set("{}") & set(usage)
    assert "[[" not in usage


@pytest.mark.parametrize(
    ("command", "option", "choice"),
    [
        ("couple", "--solver", choices.SolverName),
        ("couple", "--grid", choices.GridName),
        ("couple", "--precision", choices.PairPrecision),
        ("distill", "--objective", choices.ObjectiveName),
        ("evaluate", "--solver", choices.FixedSolver),
    ],
)
def test_help_and_refusals_list_the_choices_of_the_recipes(
    reflow: Command, command: str, option: str, choice: object
) -> None:
    names = get_args(choice)
    assert f"<{'|'.join(names)}>" in reflow(command, "--help").out
    required = {"couple": ("--out", "x"), "distill": ("--out", "x", "--pairs", "p")}
    wanted = required.get(command, ("--out", "x.json"))
    line = one_line(reflow(command, "m", *wanted, option, "nonsense"), code=2)
    assert all(f"'{name}'" in line for name in names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tarin",), "Did you mean 'train'"),
        (("train", "digits"), "missing option '--out'; see reflow train --help"),
        (("couple", "m", "--out", "x", "--count", "0"), "'--count'"),
        (("couple", "m", "--out", "x", "--cuont", "3"), "no such option: --cuont"),
        (("sample", "m", "--out", "x.png", "--nfe", "two"), "'--nfe'"),
        (("train", "digits", "--out", "x", "--track", "nonsense"), "tensorboard, wandb, trackio, mlflow"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(
    reflow: Command, arguments: tuple[str, ...], said: str
) -> None:
    assert said in one_line(reflow(*arguments), code=2)


def complete(reflow: Command, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    monkeypatch.setenv("_REFLOW_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    answer = reflow()
    assert (answer.code, answer.err) == (0, "")
    return answer.out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("reflow tr", ["train"]),
        ("reflow train ga", ["gaussians"]),
        ("reflow train ", built_in_recipes()),
        ("reflow distill m --objective ", list(get_args(choices.ObjectiveName))),
        ("reflow train digits --track ", list(get_args(choices.TrackerName))),
        ("reflow train digits --device cu", ["cuda"]),
        ("reflow train digits --set distill.le", []),
    ],
)
def test_a_shell_is_offered_what_the_recipes_know(
    reflow: Command, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]
) -> None:
    assert complete(reflow, monkeypatch, words) == offered


def test_a_shell_is_offered_settings(reflow: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = complete(reflow, monkeypatch, "reflow train digits --set train.s")
    assert "train.steps=" in found
    assert {name.removesuffix("=") for name in found} <= set(known_settings())


@pytest.mark.parametrize("asked", ["complete_bash", "complete_nonsense", "nonsense", "complete"])
def test_completion_never_fails_a_shell(
    reflow: Command, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("_REFLOW_COMPLETE", asked)
    for words, number in (("reflow nonsense --what", "9"), ("", ""), ("reflow 'open", "1")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", number)
        assert reflow().code == 0

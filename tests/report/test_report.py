"""The report says what the run and its evaluation hold, and how to make the run again."""

import html
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import Command, artifacts, one_line, run_all

from reflow.report.numbers import tell, tell_zeros

SETTINGS = [
    *("model.width=16", "model.blocks=1", "train.steps=20", "train.batch=32", "data.points=400"),
    *("couple.count=60", "reflow.steps=12", "evaluate.samples=50", "evaluate.nfe=[1,3]"),
]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny run of points with the folders of `make all`, some settings changed on the way."""
    run = tmp_path_factory.mktemp("plane") / "points"
    changes = [word for change in SETTINGS for word in ("--set", change)]
    run_all(
        (
            ("train", "gaussians", "--data", "two-moons", "--seed", 3, "--out", run / "base", *changes),
            ("couple", run / "base", "--out", run / "pairs", "--solver", "heun", "--steps", 4),
            ("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / "reflow"),
            (
                "distill",
                run / "reflow",
                "--pairs",
                run / "pairs",
                "--out",
                run / "distill",
                "--set",
                "distill.steps=9",
            ),
            (
                *("evaluate", run / "base", run / "reflow", run / "distill"),
                "--out",
                run / "evaluation.json",
            ),
        )
    )
    return run


@pytest.fixture(scope="module")
def page(plane: Path) -> str:
    run_all((("report", plane, "--out", plane.parent / "report.html"),))
    return (plane.parent / "report.html").read_text()


def text_of(page: str, anchor: str) -> str:
    """Return what stands in the element with this id, without tags."""
    found = re.search(rf'id="{anchor}"[^>]*>(.*?)</(?:pre|h\d|section)>', page, re.S)
    assert found is not None, anchor
    return html.unescape(re.sub("<[^>]*>", "", found[1])).strip()


def cells_of(page: str, caption: str) -> list[list[str]]:
    """Return the cells of the table with this caption, without its head."""
    head = f"<caption><span>{caption}</span></caption>"
    (table,) = (part for part in page.split("<table")[1:] if head in part)
    rows = re.findall(
        r"<tr[^>]*>(.*?)</tr>", table[: table.index("</table>")].partition("<tbody>")[2], re.S
    )
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]


def test_the_commands_shown_make_the_run_again(
    reflow: Command, plane: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = text_of(page, "commands").splitlines()
    assert len(lines) == 6
    for line in lines:
        name, *arguments = shlex.split(line)
        answer = reflow(*arguments)
        assert (name, answer.code) == ("reflow", 0), answer.err
    made = tmp_path / "runs" / "points"
    for stage in ("base", "pairs", "reflow", "distill"):
        assert artifacts(made / stage) == artifacts(plane / stage), stage
    evaluations = [json.loads((run / "evaluation.json").read_text()) for run in (plane, made)]
    figures = [[model["figures"] for model in evaluation["models"]] for evaluation in evaluations]
    assert figures[0] == figures[1]


def test_equal_runs_give_equal_pages(reflow: Command, plane: Path, page: str, tmp_path: Path) -> None:
    out = tmp_path / "again.html"
    assert reflow("report", plane, "--out", out).code == 0
    assert out.read_text() == page


def test_a_report_is_a_page(reflow: Command, plane: Path, tmp_path: Path) -> None:
    answer = reflow("report", plane, "--out", tmp_path / "report.pdf")
    assert answer.code == 2
    assert "report.pdf: the report is a page; give a name that ends in .html" in answer.err
    assert not list(tmp_path.iterdir())


def test_the_usual_chain_is_one_make_command(
    reflow: Command, chain: Path, page: str, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    assert reflow("report", chain, "--out", out).code == 0
    assert text_of(out.read_text(), "make") == f"make all RECIPE=tiny.toml RUN=runs/{chain.name}"
    assert 'id="make"' not in page  # which would not pass the settings of single stages


def test_tables_hold_the_figures_of_the_evaluation(plane: Path, page: str) -> None:
    evaluation = json.loads((plane / "evaluation.json").read_text())
    shown = cells_of(page, "Distances to held-out data")
    expected = [
        [Path(model["path"]).name, tell(figures["nfe"]), tell_zeros(figures["sliced_wasserstein"])]
        for model in evaluation["models"]
        for figures in model["figures"]
    ]
    floor = ["real (floor)", "", tell_zeros(evaluation["floor"]["sliced_wasserstein"])]
    assert [[row[0], row[2], row[3].partition(" ± ")[0]] for row in shown] == [*expected, floor]
    near = evaluation["nearest_training"]["held_out"]
    assert cells_of(page, "RMS distance to the nearest training sample")[-1] == [
        "held-out data",
        tell_zeros(near["median"]),
        tell_zeros(near["fifth_percentile"]),
    ]


def test_costs_add_up(plane: Path, page: str) -> None:
    rows = cells_of(page, "What each stage cost")
    spent = [int(row[2].replace(",", "")) for row in rows]
    assert spent[0] == 3 * 20 * 32  # there and back, for each example of each step
    made = json.loads((plane / "pairs" / "pairs.json").read_text())["facts"]
    pilot = made.get("pilot", {}).get("evaluations", 0)
    assert spent[1] == round(60 * made["nfe_mean"]) + pilot
    assert spent[-1] == sum(spent[:-1])
    disk = sum(file.stat().st_size for stage in plane.glob("*/") for file in stage.iterdir())
    assert float(rows[-1][4]) == pytest.approx(disk / 1e6, rel=5.1e-3)  # three digits are shown


def filled(run: Path) -> None:
    """Give an evaluation figures of images, classes, a flow and a likelihood."""
    path = run / "evaluation.json"
    content = json.loads(path.read_text()) | {"protocol": {"rounding": {"to": "8 bits"}}}
    content["floor"] |= {
        "kernel_classifier": 1e-4,
        "frechet_classifier": 2.5,
        "density": 1.0,
        "coverage": 0.97,
    }
    content["classes"] = {"moon": 0.5, "other moon": 0.5}
    content["features"] = {"name": "mine", "sha256": "5" * 64, "size": 8}
    for model in content["models"]:
        for number, figures in enumerate(model["figures"]):
            figures |= {"kernel_classifier": 0.01 - 0.02 * number, "kernel_classifier_spread": 0.05}
            figures |= {"frechet_classifier": 31.25 + number, "density": 0.8765, "coverage": 0.9123}
            figures["noise"] = {"coverage": 0.0123, "kernel_classifier": 0.0021}
        model["classes"] = {"moon": 0.25, "other moon": 0.75}
        model["likelihood"] = {"bits_per_dimension": {"mean": 3.214, "error": 0.0123}, "nats": -1.5}
        if model["straightness"] is not None:
            along = {"straightness_over_t": [0.1, 0.2, 0.4], "divergence_over_t": [-1.0, 0.5, 2.0]}
            model["flow"] = {"times": [0.0, 0.5, 1.0], **along, "curvature": 0.777, "crossing": 0.333}
            model["flow"] |= {"errors": {"crossing": 0.04}}
            model["flow"] |= {"transport_cost": {"model": 0.5, "independent": 0.9, "optimal": 0.4}}
    path.write_text(json.dumps(content))
    keys = ("nfe", "solver", "tolerance")
    for model in content["models"]:
        model["figures"] = [
            {key: figures[key] for key in keys} | {"seconds_per_image": 0.001 * (number + 2)}
            for number, figures in enumerate(model["figures"])
        ]
    (run / "evaluation.times.json").write_text(json.dumps({"schema": 1, "models": content["models"]}))


def test_all_that_evaluations_can_hold_is_shown(reflow: Command, plane: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(plane, tmp_path / "run"))
    filled(run)
    answer = reflow("report", run, "--out", tmp_path / "report.html")
    assert answer.code == 0, answer.err
    page = (tmp_path / "report.html").read_text()
    first = cells_of(page, "Distances to held-out data")[0]
    assert first[3:5] == ["31.2", "0.0100 ± 0.0021"]
    assert [row[-1] for row in cells_of(page, "Distances to held-out data")][:2] == ["2.00", "3.00"]
    assert "A sample takes 2.00 ms instead of " in page
    assert cells_of(page, "How samples cover the held-out data")[0][5:7] == ["0.876", "0.912 ± 0.012"]
    assert cells_of(page, "Straightness of the flows")[1][3:] == [
        *("0.7770", "0.3330 ± 0.040"),
        *("0.5", "0.9", "0.4"),
    ]
    assert cells_of(page, "Share of each class") == [
        ["moon", *["25.0 %"] * 3, "50.0 %"],
        ["other moon", *["75.0 %"] * 3, "50.0 %"],
    ]
    (nats,) = cells_of(page, "Likelihood of held-out data")[0][2:]
    assert (nats, cells_of(page, "Likelihood of held-out data")[0][1]) == (
        "\N{MINUS SIGN}1.5",
        "3.214 ± 0.012",
    )
    for words in (
        "Divergence of the velocity along the way",
        "8 bits",
        "Kernel distance on classifier features",
    ):
        assert words in page


def unknown(content: Any, name: str = "") -> Any:
    """Return an evaluation whose figures are NaN, but for what says how they were made."""
    if isinstance(content, dict):
        return {key: unknown(value, key) for key, value in content.items()}
    if isinstance(content, list):
        return [unknown(value, name) for value in content]
    made_by = ("nfe", "tolerance", "times", "size", "unit", "moon", "other moon")
    return math.nan if isinstance(content, float) and name not in made_by else content


def test_figures_that_could_not_be_computed_break_no_reader(
    reflow: Command, plane: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(plane, tmp_path / "run"))
    filled(run)
    path, log = run / "evaluation.json", run / "base" / "log.jsonl"
    path.write_text(json.dumps(unknown(json.loads(path.read_text()))))
    log.write_text(
        "".join(f"{json.dumps(unknown(json.loads(line)))}\n" for line in log.read_text().splitlines())
    )
    assert "NaN" in path.read_text()
    assert "NaN" in log.read_text()
    answer = reflow("report", run, plane, "--out", tmp_path / "both.html")
    assert answer.code == 0, answer.err
    answer = reflow("report", run, "--out", tmp_path / "report.html")
    assert answer.code == 0, answer.err
    text = re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text())
    assert "n/a" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    told = reflow("compare", path, path)
    assert told.code == 0, told.err
    assert "n/a" in told.out
    assert "nan" not in told.out
    json.loads(reflow("compare", path, path, "--json").out, parse_constant=pytest.fail)


def copied(run: Path, place: Path, **changes: Any) -> Path:
    """Return a copy of a run whose evaluation has other values."""
    shutil.copytree(run, place)
    path = place / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return place


def test_a_student_of_points_alone_has_no_flow_to_show(
    reflow: Command, plane: Path, tmp_path: Path
) -> None:
    shutil.copytree(plane / "distill", tmp_path / "run" / "distill")
    answer = reflow("report", tmp_path / "run", "--out", tmp_path / "report.html")
    assert answer.code == 0, answer.err
    assert "The flow" not in (tmp_path / "report.html").read_text()


def test_several_runs_stand_side_by_side(reflow: Command, plane: Path, tmp_path: Path) -> None:
    other = copied(plane, tmp_path / "other" / "points", data="0" * 64)
    out = tmp_path / "both.html"
    answer = reflow("report", plane, other, "--out", out)
    assert answer.code == 0, answer.err
    page = out.read_text()
    names = [f"{run.parent.name}/points" for run in (plane, other)]  # of the same name
    rows = cells_of(page, "The runs side by side")
    assert [row[0] for row in rows] == names
    assert rows[0][1:] == rows[1][1:]
    assert "The held-out data differ" in page
    assert page.count('id="r1-samples"') == 1
    assert len(set(re.findall(r' id="([^"]*)"', page))) == len(re.findall(r' id="', page))
    assert 'href="#r1-run"' in page


def test_a_run_given_twice_is_refused(reflow: Command, plane: Path, tmp_path: Path) -> None:
    line = one_line(reflow("report", plane, plane, "--out", tmp_path / "x.html"), code=2)
    assert "is given 2 times" in line

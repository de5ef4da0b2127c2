"""Training on several sets of pairs: accepted, weighted and recorded as asked for; else refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Answer, Command
from fields import batch_of
from files import made, store
from numbered import numbered, rng

from reflow import load_model
from reflow.artifacts import Header, read_header
from reflow.couplings import Mixture
from reflow.flow import Pair
from reflow.pairs.mixing import PairSets
from reflow.pairs.store import open_pairs, write_index, write_shard


@pytest.fixture(scope="module")
def more(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make real data with inverted noise, as it stands beside generated pairs: 25, half of the others."""
    directory = tmp_path_factory.mktemp("inverted")
    base = load_model(chain / "base")
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(25, *base.event, generator=rng) * 2 - 1
    header = Header(
        kind="pairs",
        stage="couple",
        rectification=1,
        recipe=base.header.recipe,
        parents={"model": base.digest, "data": base.header.parents["data"]},
        facts={"event": list(base.event), "classes": None, "count": 25, "inverted": True}
        | {"nfe_mean": 8.0, "nfe_max": 8},
    )
    noise = 0.8 * torch.randn(image.shape, generator=rng)
    digest = write_shard(directory / "pairs-00000-of-00001.safetensors", Pair(noise, image), header)
    shard = {"file": "pairs-00000-of-00001.safetensors", "count": 25, "sha256": digest}
    write_index(directory, header, [shard | {"nfe_mean": 8.0, "nfe_max": 8}])
    return directory


def reflowed(reflow: Command, chain: Path, out: Path, *options: object) -> Answer:
    return reflow("train", "--init", chain / "base", "--pairs", chain / "pairs", "--out", out, *options)


def header_of(model: Path) -> Header:
    return read_header(model / "model.safetensors", "model")


def test_a_mixture_records_every_set_and_its_share(
    reflow: Command, chain: Path, more: Path, tmp_path: Path
) -> None:
    options = ("--pairs", more, "--weights", "3,1")
    answer = reflowed(reflow, chain, tmp_path / "mixed", *options)
    assert answer.code == 0, answer.err
    header = header_of(tmp_path / "mixed")
    assert header.parents == {
        "init": load_model(chain / "base").digest,
        "pairs": open_pairs(chain / "pairs").digest,
        "pairs-2": open_pairs(more).digest,
    }
    assert header.facts["weights"] == [0.75, 0.25]
    assert (
        header.facts["training_samples"] == 74
    )  # of 75; two in a hundred of the generated ones are held out
    assert header.rectification == 2
    before = (tmp_path / "mixed" / "model.safetensors").read_bytes()
    answer = reflowed(reflow, chain, tmp_path / "mixed", "--pairs", more, "--weights", "0.75,1/4")
    assert "nothing to do" in answer.err  # the same proportions
    assert (tmp_path / "mixed" / "model.safetensors").read_bytes() == before


def test_other_weights_and_other_sets_are_refused(
    reflow: Command, chain: Path, more: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mixed"
    assert reflowed(reflow, chain, out, "--pairs", more).code == 0
    assert header_of(out).facts["weights"] == [50 / 75, 25 / 75]
    for options, message in (
        (("--pairs", more, "--weights", "1,1"), "weights of the pairs are [0.66"),
        ((), "it was made from other pairs-2"),
    ):
        answer = reflowed(reflow, chain, out, *options)
        assert answer.code == 1
        assert message in answer.err
        assert "--fresh" in answer.err
    (out / "model.safetensors").unlink()  # an unfinished one is not gone on with either
    answer = reflowed(reflow, chain, out, "--pairs", more, "--weights", "1,1")
    assert "state.safetensors was made with other settings" in answer.err


def test_the_weights_decide_what_is_learnt(
    reflow: Command, chain: Path, more: Path, tmp_path: Path
) -> None:
    losses = []
    for number, weights in enumerate(("1,100", "100,1")):
        out = tmp_path / str(number)
        assert reflowed(reflow, chain, out, "--pairs", more, "--weights", weights).code == 0
        lines = (out / "log.jsonl").read_text().splitlines()
        losses.append(json.loads(lines[-1])["loss"])
    assert losses[0] > 1.3 * losses[1]  # the images of `more` are noise, harder to predict than digits


def test_one_set_of_pairs_is_recorded_as_ever(chain: Path) -> None:
    for stage in ("reflow", "distill"):
        header = header_of(chain / stage)
        assert "weights" not in header.facts
        assert set(header.parents) == {"pairs", "init" if stage == "reflow" else "model"}


def test_students_of_a_mixture_take_any_of_its_sets_and_no_weights_of_its_own(
    reflow: Command, chain: Path, more: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    assert reflowed(reflow, chain, mixed, "--pairs", more).code == 0
    one = reflow("distill", mixed, "--pairs", more, "--out", tmp_path / "one")
    assert one.code == 0, one.err
    assert "weights" not in header_of(tmp_path / "one").facts
    assert header_of(tmp_path / "one").facts["training_samples"] == 25
    sets = ("--pairs", more, "--pairs", chain / "pairs")
    both = reflow("distill", mixed, *sets, "--weights", "1,1", "--out", tmp_path / "both")
    assert both.code == 0, both.err
    assert header_of(tmp_path / "both").facts["weights"] == [0.5, 0.5]


def test_inspect_and_report_show_all_parents(
    reflow: Command, chain: Path, more: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name, source in (("base", chain / "base"), ("pairs", chain / "pairs"), ("real", more)):
        (run / name).symlink_to(source)
    assert reflowed(reflow, chain, run / "mixed", "--pairs", more).code == 0
    text = reflow("inspect", run / "mixed").out
    second = open_pairs(more).digest
    assert f"from     pairs-2 {second}" in text
    assert "weights" in text
    entries = json.loads(reflow("inspect", run, "--json").out)["artifacts"]
    assert [entry["parents"].get("pairs-2") for entry in entries].count(second) == 1
    answer = reflow("report", run, "--out", tmp_path / "report.html")
    assert answer.code == 0, answer.err
    page = (tmp_path / "report.html").read_text()
    assert f"pairs-2: real <code>{second[:12]}</code>" in page


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("0.5", "gives 1 for 2 --pairs"),
        ("1,1,1", "gives 3 for 2 --pairs"),
        ("1,half", "write numbers with commas between"),
        ("1,0", "every weight is above zero"),
        ("-1,2", "every weight is above zero"),
        ("1,nan", "write numbers"),
        ("1,1/0", "write numbers"),
    ],
)
def test_impossible_weights_are_wrong_usage(
    reflow: Command, chain: Path, more: Path, tmp_path: Path, weights: str, message: str
) -> None:
    for stage in (("train", "--init", chain / "base"), ("distill", chain / "base")):
        sets = ("--pairs", chain / "pairs", "--pairs", more)
        answer = reflow(*stage, *sets, "--out", tmp_path / "x", f"--weights={weights}")
        assert answer.code == 2
        assert message in answer.err
    assert not (tmp_path / "x").exists()


def test_weights_that_would_do_nothing_are_wrong_usage(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    answer = reflowed(reflow, chain, tmp_path / "x", "--weights", "1")
    assert (answer.code, "several --pairs" in answer.err) == (2, True)
    answer = reflow("train", TINY, "--weights", "1", "--out", tmp_path / "x")
    assert (answer.code, "several --pairs" in answer.err) == (2, True)


def test_every_set_has_to_be_the_models_own(
    reflow: Command, chain: Path, more: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    twice = reflowed(reflow, chain, out, "--pairs", more, "--pairs", chain / "pairs")
    assert "are the same pairs" in twice.err
    foreign = store(tmp_path / "foreign", made(20), [20])
    other_shape = reflowed(reflow, chain, out, "--pairs", foreign)
    assert f"{foreign} holds samples of (1, 4, 4)" in other_shape.err
    assert reflow("train", TINY, "--out", tmp_path / "other", "--seed", 1).code == 0
    assert reflow("couple", tmp_path / "other", "--out", tmp_path / "others").code == 0
    other_model = reflowed(reflow, chain, out, "--pairs", tmp_path / "others")
    assert f"{tmp_path / 'others'} was made by another model" in other_model.err
    in_place = reflowed(reflow, chain, more, "--pairs", more)
    assert "is where" in in_place.err
    assert {answer.code for answer in (twice, other_shape, other_model, in_place)} == {1}
    assert not out.exists()


def test_of_a_single_pair_none_is_held_out() -> None:
    (_, trained), (_, held_out) = PairSets([numbered(1)], [1]).split(0.9, seed=0)  # type: ignore[list-item]
    assert (trained, held_out) == (1, 0)


def test_each_set_has_an_order_of_its_own() -> None:
    sets = PairSets([numbered(50), numbered(50)], [1, 1])  # type: ignore[list-item]
    (coupling, _), _ = sets.split(0.0, seed=0)
    assert isinstance(coupling, Mixture)
    one, other = (
        part.draw(np.arange(50), batch_of(50, rng())).x0[:, 0].tolist() for part in coupling.couplings
    )
    assert one != other
    assert sorted(one) == sorted(other)

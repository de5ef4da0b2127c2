"""Pairs hold what was asked for: labels, guidance, precision, solver, accuracy; and the index says so."""

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command, Exact, one_line
from coupled import ROUNDING, facts_of, pairs_of, rms
from safetensors.torch import load_file
from torch import Tensor

from reflow import integrate, load_model
from reflow.flow import Pair
from reflow.guidance import guided
from reflow.models import Model
from reflow.pairs.store import read_index
from reflow.pairs.writer import ShardSet
from reflow.recipes.recipe import GuidanceSettings


def labels_of(pair: Pair) -> list[int]:
    assert pair.label is not None
    return pair.label.tolist()


def test_labels_come_in_turn_all_of_them_or_those_asked_for(
    reflow: Command, labelled: Path, tmp_path: Path
) -> None:
    for options, wanted in (((), [*range(10), *range(10), *range(5)]), (("--labels", "0,2"), [0, 2] * 13)):
        answer = reflow("couple", labelled, "--out", tmp_path / "x", "--count", 25, "--fresh", *options)
        assert answer.code == 0, answer.err
        pair = pairs_of(tmp_path / "x")
        assert labels_of(pair) == wanted[:25]
        solved = integrate(load_model(labelled), pair.x0, steps=4, label=torch.tensor(wanted[:25]))
        torch.testing.assert_close(pair.x1, solved.x1, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0,10", "--labels 10: no class of this model; give one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ("x", "--labels x: no class"),
        ("", "--labels : no class"),
    ],
)
def test_strange_labels_are_refused(
    reflow: Command, labelled: Path, tmp_path: Path, labels: str, message: str
) -> None:
    answer = reflow("couple", labelled, "--out", tmp_path / "x", "--labels", labels)
    assert message in one_line(answer)


def test_guidance_is_baked_in_counted_and_told(reflow: Command, labelled: Path, tmp_path: Path) -> None:
    answer = reflow("couple", labelled, "--out", tmp_path / "x", "--guidance", 2, "--count", 20)
    assert answer.code == 0, answer.err
    pair, model = pairs_of(tmp_path / "x"), load_model(labelled)
    field = guided(model, GuidanceSettings(guidance=2.0))
    solved = integrate(field, pair.x0, steps=4, label=pair.label).x1
    torch.testing.assert_close(pair.x1, solved, rtol=0, atol=ROUNDING)
    plain = integrate(model, pair.x0, steps=4, label=pair.label).x1
    assert rms(solved - plain) > 1e-3  # it is felt
    header, _ = read_index(tmp_path / "x" / "pairs.json")
    assert header.recipe["couple"]["guidance"] == 2
    assert header.facts["nfe_histogram"] == {"16": 20}  # 4 steps of Heun, each of 2 calls of 2 evaluations


def test_labels_and_guidance_are_refused_to_models_without_classes(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    arguments = ("couple", chain / "base", "--out", tmp_path / "x")
    assert "without labels" in one_line(reflow(*arguments, "--labels", "0"))
    assert "needs a null label" in one_line(reflow(*arguments, "--guidance", 2))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_images_are_stored_in_the_precision_asked_for_and_noise_in_full(
    reflow: Command, chain: Path, tmp_path: Path, dtype: str
) -> None:
    options = ("--set", f"couple.image_dtype={dtype}")
    assert reflow("couple", chain / "base", "--out", tmp_path / "x", *options).code == 0
    for path in sorted((chain / "pairs").glob("*.safetensors")):
        full, found = load_file(path), load_file(tmp_path / "x" / path.name)
        assert torch.equal(found["noise"], full["noise"])
        assert torch.equal(found["image"], full["image"].to(getattr(torch, dtype)))
    assert torch.equal(pairs_of(tmp_path / "x").x1, pairs_of(chain / "pairs").x1.to(getattr(torch, dtype)))


def test_the_network_may_run_in_bfloat16_where_the_processor_knows_it(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    answer = reflow("couple", chain / "base", "--out", tmp_path / "x", "--set", "couple.precision=bfloat16")
    if not torch.cpu._is_avx512_bf16_supported():
        assert "only emulates it" in one_line(answer)
        return
    assert answer.code == 0, answer.err
    found, full = pairs_of(tmp_path / "x"), pairs_of(chain / "pairs")
    assert torch.equal(found.x0, full.x0)
    # bfloat16 has 8 bits: the velocity, of order 1, is off by some thousandths.
    assert 1e-4 < rms(found.x1 - full.x1) < 3e-2


@pytest.mark.parametrize("options", [(), ("--guidance", 2), ("--solver", "dopri5", "--tolerance", 0.01)])
def test_the_evaluations_of_the_index_are_those_that_the_network_made(
    reflow: Command,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[Any, ...],
) -> None:
    rows, network = [], Model.forward

    def forward(model: Model, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        rows.append(len(x))
        return network(model, x, t, label)

    monkeypatch.setattr(Model, "forward", forward)
    # Of 24 slots, those that find no more sample evaluate in vain, with a step size per sample only.
    assert reflow("couple", labelled, "--out", tmp_path / "x", "--count", 48, *options).code == 0
    facts = facts_of(tmp_path / "x")
    histogram = {int(nfe): n for nfe, n in facts["nfe_histogram"].items()}
    spent = sum(nfe * n for nfe, n in histogram.items())
    waste = sum(rows) - facts["pilot"]["evaluations"] - spent
    assert (0 <= waste < 24 * facts["nfe_max"]) if "dopri5" in options else waste == 0
    assert sum(histogram.values()) == facts["count"] == 48
    assert facts["nfe_max"] == max(histogram)
    assert facts["nfe_mean"] == pytest.approx(spent / 48, abs=1e-4)  # four digits
    _, shards = read_index(tmp_path / "x" / "pairs.json")
    assert [shard["count"] for shard in shards] == [20, 20, 8]
    assert math.fsum(shard["nfe_mean"] * shard["count"] for shard in shards) == pytest.approx(
        spent, rel=1e-4
    )


@pytest.mark.parametrize("solver", ["heun", "dopri5", "adams"])
def test_a_pair_depends_on_its_number_not_on_batch_shard_or_count(
    reflow: Command, chain: Path, tmp_path: Path, solver: str
) -> None:
    method: tuple[object, ...] = ("--solver", solver)
    if solver != "heun":
        method = (*method, "--tolerance", 0.01, "--set", "couple.steps=none")
    # The pilot has 24 samples for all counts up to 2,400, so the plan is the same.
    for name, options in (("few", ("--count", 37)), ("other", ("--count", 50))):
        layout = ("--set", "couple.batch=50", "--set", "couple.shard=7") if name == "few" else ()
        arguments = ("couple", chain / "base", "--out", tmp_path / name, *method, *options, *layout)
        assert reflow(*arguments).code == 0
    few, other = pairs_of(tmp_path / "few"), pairs_of(tmp_path / "other")
    assert torch.equal(few.x0, other.x0[:37])
    torch.testing.assert_close(few.x1, other.x1[:37], rtol=0, atol=3 * ROUNDING)  # steps round, too
    assert not torch.equal(few.x0[0], few.x0[1])


def test_pairs_that_are_written_are_not_held(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[weakref.ref[Tensor]] = []
    plain, alive = ShardSet.write, []

    def write(shards: ShardSet, shard: int, pair: Pair, facts: dict[str, Any]) -> None:
        written.extend((weakref.ref(pair.x0), weakref.ref(pair.x1)))
        alive.append(sum(tensor() is not None for tensor in written))
        plain(shards, shard, pair, facts)

    monkeypatch.setattr(ShardSet, "write", write)
    assert reflow("couple", chain / "base", "--out", tmp_path / "x", "--count", 400).code == 0
    assert len(alive) == 20
    assert max(alive) <= 4  # noise and images of this shard, and of one that its thread has just written

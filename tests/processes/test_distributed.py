"""Many processes train as one does: the same steps to rounding, in copies or in shares."""

from pathlib import Path

import pytest
import torch
from jobs import ended
from safetensors.torch import load_file
from together import computed
from torch import Tensor

from reflow.distributed import ALONE

NOT_WEIGHTS = ("skipped", "losses")


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return computed(ALONE)


@pytest.fixture(scope="module")
def ranks(together: Path) -> list[dict[str, Tensor]]:
    for process in ended(together, "computed"):
        assert process.code == 0, process.err
    return [load_file(together / f"{rank}.safetensors") for rank in (0, 1)]


def case(answers: dict[str, Tensor], name: str, *, but: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the tensors of one case by their own names."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in answers.items()
        if key.startswith(prefix) and not key.startswith(tuple(prefix + other for other in but))
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ["gradient", "gradient in pieces", "gradient of shares"])
def test_two_processes_take_the_gradient_of_one(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor], name: str
) -> None:
    # Rounding of sums in float32 in another order.
    assert relative(ranks[0][name], alone["gradient"]) < 1e-6


@pytest.mark.parametrize("name", ["double", "pieces", "flipped", "mean flow", "transported", "weighted"])
def test_two_processes_come_to_the_weights_of_one(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor], name: str
) -> None:
    wanted = case(alone, name, but=NOT_WEIGHTS)
    assert len(wanted) > 100
    for key, tensor in case(ranks[0], name, but=NOT_WEIGHTS).items():
        # Twenty steps of Adam enlarge the rounding of float64, 1e-16.
        assert relative(tensor, wanted[key]) < 1e-9, key


def test_micro_batches_take_the_steps_of_the_whole_batch(alone: dict[str, Tensor]) -> None:
    wanted = case(alone, "double", but=NOT_WEIGHTS)
    for key, tensor in case(alone, "pieces", but=NOT_WEIGHTS).items():
        assert relative(tensor, wanted[key]) < 1e-9, key
    assert relative(alone["gradient in pieces"], alone["gradient"]) < 1e-6


def test_losses_in_single_precision_stay_together(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor]
) -> None:
    for name in ("single", "shares"):
        torch.testing.assert_close(
            ranks[0][f"{name}.losses"], alone["single.losses"], rtol=1e-5, atol=0
        )  # the bar is 1e-3; rounding gives 1e-7 a step


def test_shares_come_to_what_copies_come_to(
    ranks: list[dict[str, Tensor]], alone: dict[str, Tensor]
) -> None:
    for part in ("raw", "ema", "exp_avg"):
        copies, shares = (
            # The bias of attention's keys has no gradient but rounding, which Adam makes large.
            torch.cat(
                [t.flatten() for k, t in case(ranks[0], f"{name}.{part}").items() if "qkv.bias" not in k]
            )
            for name in ("single", "shares")
        )
        assert relative(shares, copies) < 1e-5
    double = case(alone, "double", but=NOT_WEIGHTS)
    for key, tensor in case(ranks[0], "shares in pieces", but=NOT_WEIGHTS).items():
        assert relative(tensor, double[key]) < 1e-9, key


def test_interrupted_shares_and_copies_go_on_bit_for_bit(ranks: list[dict[str, Tensor]]) -> None:
    for name, undisturbed in (
        ("shares resumed", "shares"),
        ("resumed", "single"),
        ("weighted resumed", "weighted"),
    ):
        wanted = case(ranks[0], undisturbed)
        found = case(ranks[0], name)
        assert len(found) > 100
        assert [key for key, tensor in found.items() if not torch.equal(tensor, wanted[key])] == []


def test_every_process_holds_the_same(ranks: list[dict[str, Tensor]]) -> None:
    both = ranks[0].keys() & ranks[1].keys()
    differing = [key for key in both if not torch.equal(ranks[0][key], ranks[1][key])]
    assert differing == ["average of shares"]  # which only the first one gathers


def test_only_the_first_process_gathers_shares(ranks: list[dict[str, Tensor]]) -> None:
    missing = ranks[0].keys() - ranks[1].keys()
    assert all(key.startswith("shares") for key in missing)
    for name in ("shares", "shares in pieces", "shares resumed"):
        assert len(case(ranks[0], name, but=NOT_WEIGHTS)) > 100
        assert not case(ranks[1], name, but=NOT_WEIGHTS)


def test_a_vote_is_known_to_all_one_step_later(ranks: list[dict[str, Tensor]]) -> None:
    assert ranks[1]["votes"].tolist() == [[0, 0], [2, 0], [0, 7]]


def test_processes_share_sums_and_what_the_first_one_has(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        assert int(rank["agreed"]) == 5
        assert float(rank["total"]) == 3
        assert rank["gathered"].tolist() == [0, 1, 1, *(1, 1), *(0, 0)]  # in order, empty ones too
        assert float(rank["shared"]) == 3

"""Run a `reflow` command whose training starts from other weights than its model's average.

    python studies/initial.py raw|fresh train --pairs DIR --init MODEL --out DIR ...

raw: the last weights of the optimiser, from the model's state.safetensors; fresh: random ones. The tool
itself has no such option: both are what studies compare with. The headers of the results do not tell.
"""

import sys
from pathlib import Path
from typing import Protocol

import torch

from reflow.__main__ import main
from reflow.artifacts import MODEL, STATE, read_artifact
from reflow.inputs import copy_of
from reflow.models import Model, build
from reflow.models.preconditioning import Preconditioned
from reflow.randomness import draw_seed
from reflow.recipes.recipe import ModelSettings
from reflow.stages import distill, reflow


class Start(Protocol):
    """What gives the network that training starts from, as `copy_of` does."""

    def __call__(self, model: Model, settings: ModelSettings, *, spans: bool = False) -> Preconditioned:
        """Return the network, with a second time where it `spans`."""
        ...


def fresh(model: Model, settings: ModelSettings, *, spans: bool = False) -> Preconditioned:
    """Return a network with random weights, other ones than its model started from."""
    torch.manual_seed(draw_seed(model.recipe.seed, "fresh weights"))
    unconditional = model.null_label is not None
    return build(settings, model.event, model.classes, unconditional=unconditional, spans=spans)


def raw(folder: Path) -> Start:
    """Return what gives the network the last weights of the training run in a folder."""

    def start(model: Model, settings: ModelSettings, *, spans: bool = False) -> Preconditioned:
        _, tensors = read_artifact(folder / STATE, "state")
        net = copy_of(model, settings, spans=spans)
        net.load_state_dict(
            net.state_dict() | {name: tensors[f"raw.{name}"] for name in model.net.state_dict()}
        )
        return net

    return start


def model_in(words: list[str]) -> Path:
    """Return the folder of the model that a command starts from."""
    path = Path(words[words.index("--init") + 1] if "--init" in words else words[1])
    return path.parent if path.name == MODEL else path


def run(how: str, words: list[str]) -> None:
    """Run the command with its copying of weights replaced."""
    starts = {"fresh": fresh, "raw": raw(model_in(words))}
    if how not in starts:
        sys.exit(f"initial.py: {how} is none of {', '.join(starts)}")
    reflow.copy_of = distill.copy_of = starts[how]  # type: ignore[assignment,attr-defined]
    sys.argv[1:] = words
    main()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])

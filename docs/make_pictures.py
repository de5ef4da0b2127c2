"""Make docs/images/RECIPE.png of a finished run: python docs/make_pictures.py [RUN] (runs/digits).

The grids start from the same noise; with labels every column is a class.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from reflow import load_model
from reflow.pictures import grid
from reflow.sampling.generate import generate
from reflow.sampling.methods import fixed_method

SHOWN = (("base", 1), ("base", 100), ("reflow", 1), ("distill", 1))
ROWS = 7


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits")
    evaluation = json.loads((run / "evaluation.json").read_text("utf-8"))
    figures = {Path(model["path"]).name: model["figures"] for model in evaluation["models"]}
    figure = Figure(figsize=(10, 2.6 if load_model(run / "base").classes else 3.1), layout="constrained")
    for axes, (name, nfe) in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        model = load_model(run / name)
        columns = model.classes or ROWS
        (batch,) = generate(
            model,
            ROWS * columns,
            method=fixed_method(model, nfe),
            seed=0,
            stream="report",
            batch=ROWS * columns,
            device=torch.device("cpu"),
        )
        distance = next(f["frechet_classifier"] for f in figures[name] if f["nfe"] == nfe)
        axes.imshow(np.asarray(grid(batch.pair.x1, columns=columns)), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{name}, {nfe} evaluation{'s' * (nfe > 1)}", fontsize=11)
        axes.set_xlabel(f"Frechet distance {distance:,.{0 if distance > 20 else 1}f}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    out = Path(__file__).with_name("images") / f"{model.recipe.name}.png"
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()

"""sample: draw images or points from a model into a file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reflow.artifacts import Header, read_header, write_artifact
from reflow.artifacts.facts import PairFacts
from reflow.artifacts.files import prepare, write_atomically, writing
from reflow.devices import choose_device
from reflow.errors import ReflowError, UsageError
from reflow.flow import Pair
from reflow.models import Model, load_model
from reflow.pictures import grid, png, to_bytes, to_picture
from reflow.pictures.points import scatter
from reflow.recipes.read import guidance_settings
from reflow.recipes.recipe import SolverSettings
from reflow.sampling.generate import generate, labels_called
from reflow.sampling.methods import fixed_method, tolerant_method, usual_method
from reflow.terminal import Meter, say

STREAM = "sample"
FORMATS = ".png (a grid), .npz, .safetensors, or a folder for one .png per image"


def run(
    path: Path,
    *,
    out: Path,
    count: int,
    nfe: int | None,
    tolerance: float | None,
    solver: str | None,
    seed: int,
    label: str | None,
    guidance: float | None,
    interval: Sequence[float] | None,
    batch: int,
    device: str,
) -> None:
    """Draw samples number 0 to count - 1 of a seed into `out`, whose name tells the format."""
    where = choose_device(device)
    if out.suffix and out.suffix not in WRITERS and not out.is_dir():
        raise UsageError(f"--out {out}: use {FORMATS}")
    _require_free(out)
    model = load_model(path).to(where)
    method = _method(model, nfe, tolerance, solver)
    labels = None if label is None else labels_called(model, [label], "--label")
    guide = guidance_settings(guidance, interval)
    pairs, evaluations = [], []
    with Meter("sample", count, "samples") as meter:
        for batch_of in generate(
            model,
            count,
            method=method,
            seed=seed,
            stream=STREAM,
            batch=batch,
            device=where,
            labels=labels,
            guidance=guide,
        ):
            pairs.append(batch_of.pair)
            evaluations.append(batch_of.nfe)
            meter.update(sum(len(part) for part in evaluations))
    whole = Pair(
        torch.cat([pair.x0 for pair in pairs]),
        torch.cat([pair.x1 for pair in pairs]),
        torch.cat([p.label for p in pairs if p.label is not None]) if model.classes else None,
    )
    WRITERS.get(out.suffix, _write_folder)(out, whole, model)
    nfe_mean = float(torch.cat(evaluations).double().mean())
    say(f"{out}: {count} samples, NFE {nfe_mean:.4g} ({method.solver})")


def _require_free(out: Path) -> None:
    """Refuse to write over a model or among the files of a folder."""
    if out.is_dir():
        if any(out.iterdir()):
            raise ReflowError(f"--out {out} is a folder with files in it; give a new one")
    elif out.suffix == ".safetensors" and out.exists() and read_header(out).stage != "sample":
        raise ReflowError(f"--out {out} is an artifact of another stage; give another name")
    else:
        prepare(out)


def _method(model: Model, nfe: int | None, tolerance: float | None, solver: str | None) -> SolverSettings:
    if nfe is not None and tolerance is not None:
        raise UsageError("give --nfe (a fixed grid) or --tolerance (adaptive), not both")
    if nfe is not None:
        return fixed_method(model, nfe, solver or "euler")
    if tolerance is not None:
        return tolerant_method(model, tolerance, solver)
    if solver is not None:
        raise UsageError("--solver needs --nfe or --tolerance beside it")
    return usual_method(model)


def _write_png(out: Path, samples: Pair, model: Model) -> None:
    picture = png(grid(samples.x1)) if len(model.event) == 3 else scatter(samples.x1)
    write_atomically(out, picture)


def _write_npz(out: Path, samples: Pair, model: Model) -> None:
    """Write `images` uint8 (N, H, W, C) or, of vectors, `samples` float32, and `labels`."""
    arrays: dict[str, NDArray[Any]] = {}
    if len(model.event) == 3:
        arrays["images"] = to_bytes(samples.x1)
    else:
        arrays["samples"] = samples.x1.numpy()
    if samples.label is not None:
        arrays["labels"] = samples.label.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(out, buffer.getvalue())


def _write_safetensors(out: Path, samples: Pair, model: Model) -> None:
    """Write noise, image and label unrounded, as pairs are stored."""
    tensors = {"noise": samples.x0, "image": samples.x1}
    if samples.label is not None:
        tensors["label"] = samples.label
    header = Header(
        kind="pairs",
        stage="sample",
        rectification=model.header.rectification,
        recipe=model.header.recipe,
        parents={"model": model.digest},
        facts=PairFacts(model.event, model.classes, count=len(samples.x0)).to_json(),
    )
    write_artifact(out, tensors, header)


def _write_folder(out: Path, samples: Pair, model: Model) -> None:
    if len(model.event) != 3:
        raise UsageError(f"--out {out}: vectors go to .npz, .safetensors or .png")
    with writing(out):
        out.mkdir(exist_ok=True)
    width = max(5, len(str(len(samples.x1) - 1)))
    for number, pixels in enumerate(to_bytes(samples.x1)):
        write_atomically(out / f"{number:0{width}d}.png", png(to_picture(pixels)))


WRITERS = {".png": _write_png, ".npz": _write_npz, ".safetensors": _write_safetensors}

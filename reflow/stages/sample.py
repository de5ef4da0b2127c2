"""sample: draw images or points from a model into a file, or images into a folder."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reflow.artifacts import Header, read_header, write_artifact
from reflow.artifacts.facts import PairFacts
from reflow.artifacts.files import output_file, write_atomically
from reflow.devices import choose_device
from reflow.errors import ReflowError, UsageError
from reflow.flow import Pair
from reflow.models import Model, load_model
from reflow.pictures import grid, png, to_bytes, to_picture
from reflow.pictures.points import scatter
from reflow.recipes.read import guidance_settings
from reflow.recipes.recipe import GuidanceSettings, SolverSettings
from reflow.sampling.folder import require_ours, sample_folder
from reflow.sampling.generate import Generated, generate, labels_called
from reflow.sampling.methods import fixed_method, tolerant_method, usual_method
from reflow.terminal import Meter, say

STREAM = "sample"
PICTURES = {".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".svg", ".pdf", ".mp4"}
ARRAYS = {".npy", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".hdf5", ".zip", ".tar", ".gz", ".parquet"}
OTHERS = PICTURES | ARRAYS | {".csv", ".txt", ".json", ".html"}  # any other belongs to a folder's name
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
    ending = _ending(out)
    if ending in WRITERS:
        _require_free(out, ending)
    else:
        require_ours(out)
    model = load_model(path).to(where)
    method = _method(model, nfe, tolerance, solver)
    labels = None if label is None else labels_called(model, [label], "--label")
    asked = _Asked(model, method, seed, labels, guidance_settings(guidance, interval), batch, where)
    if ending in WRITERS:
        with output_file(out), Meter("sample", count, "samples") as meter:
            _into_file(out, ending, asked, count, meter)
    else:
        _into_folder(out, asked, count)


@dataclass(frozen=True)
class _Asked:
    """What samples follow from, and how many are drawn together on which device."""

    model: Model
    method: SolverSettings
    seed: int
    labels: list[int] | None
    guidance: GuidanceSettings
    batch: int
    device: torch.device

    def draw(self, count: int, starts: Iterable[int]) -> Iterator[Generated]:
        """Yield the batches that begin at these of `count` samples, each alike whichever are left out."""
        for first in starts:
            yield from generate(
                self.model,
                min(self.batch, count - first),
                method=self.method,
                seed=self.seed,
                stream=STREAM,
                batch=self.batch,
                device=self.device,
                labels=self.labels,
                guidance=self.guidance,
                first=first,
            )

    def record(self) -> dict[str, Any]:
        """Return what samples follow from, as JSON's values."""
        return {
            "model": self.model.digest,
            "seed": self.seed,
            "label": None if self.labels is None else self.labels[0],
            "method": self.method.model_dump(mode="json"),
            "guidance": self.guidance.model_dump(mode="json"),
        }


def _ending(out: Path) -> str:
    """Return the ending that tells the format, in lower case; nothing for a folder, dots or not."""
    ending = out.suffix.lower()
    if out.is_dir():
        return ""
    if ending in OTHERS:
        raise UsageError(f"--out {out}: use {FORMATS}")
    return ending if ending in WRITERS else ""


def _require_free(out: Path, ending: str) -> None:
    """Refuse to write over a model."""
    if ending == ".safetensors" and out.exists() and read_header(out).stage != "sample":
        raise ReflowError(f"--out {out} is an artifact of another stage; give another name")


def _into_file(out: Path, ending: str, asked: _Asked, count: int, meter: Meter) -> None:
    drawn = []
    for part in asked.draw(count, range(0, count, asked.batch)):
        drawn.append(part)
        meter.update(sum(len(part.nfe) for part in drawn))
    pairs = [part.pair for part in drawn]
    whole = Pair(
        torch.cat([pair.x0 for pair in pairs]),
        torch.cat([pair.x1 for pair in pairs]),
        torch.cat([p.label for p in pairs if p.label is not None]) if asked.model.classes else None,
    )
    WRITERS[ending](out, whole, asked.model)
    _say_done(out, f"{count} samples", [part.nfe for part in drawn], asked.method)


def _into_folder(out: Path, asked: _Asked, count: int) -> None:
    """Write one picture per sample; of a folder that was begun, draw the batches that lack some."""
    if len(asked.model.event) != 3:
        raise UsageError(f"--out {out}: vectors go to .npz, .safetensors or .png")
    with sample_folder(out, count, asked.record()) as folder:
        missing = folder.missing()
        if not missing:
            say(f"{out} is complete: {count} samples; nothing to do")
            return
        starts = sorted({number - number % asked.batch for number in missing})
        wanted, left, evaluations = set(missing), len(missing), []
        with Meter("sample", count, "samples", done=count - left) as meter:
            for first, part in zip(starts, asked.draw(count, starts), strict=True):
                evaluations.append(part.nfe)
                for number, pixels in enumerate(to_bytes(part.pair.x1), first):
                    if number in wanted:
                        folder.put(number, png(to_picture(pixels)))
                        left -= 1
                meter.update(count - left)
    drawn = f"{count} samples" + (f" ({len(missing)} drawn now)" if len(missing) < count else "")
    _say_done(out, drawn, evaluations, asked.method)


def _say_done(out: Path, what: str, evaluations: list[torch.Tensor], method: SolverSettings) -> None:
    nfe_mean = float(torch.cat(evaluations).double().mean())
    say(f"{out}: {what}, NFE {nfe_mean:.4g} ({method.solver})")


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


WRITERS = {".png": _write_png, ".npz": _write_npz, ".safetensors": _write_safetensors}

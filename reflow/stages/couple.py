"""couple: solve the ODE from fresh noise and keep the pairs (noise, generated image)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reflow.artifacts import PAIRS, SHARDS, Header, file_digest, read_artifact
from reflow.config import CoupleSettings
from reflow.devices import choose_device
from reflow.errors import Interrupted, ReflowError
from reflow.flow import Pair
from reflow.generation import generate
from reflow.lineage import recipe_of, require_velocity_field
from reflow.models import Model, load_model
from reflow.pairs import open_pairs, read_index, shard_name, write_index, write_shard
from reflow.reporting.progress import Meter, say
from reflow.training import Stop, watching_signals
from reflow.workspace import claim, require_same

STREAM = "couple"


def run(model_path: Path, overrides: list[str], *, out: Path, device: str, fresh: bool) -> None:
    """Make the pairs of the model at `model_path` in `out`."""
    where = choose_device(device)
    model = load_model(model_path).to(where)
    require_velocity_field(model, model_path)
    recipe = recipe_of(model, overrides)
    header = Header(
        kind="pairs",
        stage="couple",
        rectification=model.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": model.digest},
        facts={"event": list(model.event), "classes": model.classes},
    )
    with claim(out, "pairs", inputs=(model_path,), fresh=fresh):
        if (out / PAIRS).exists():
            found, _ = read_index(out / PAIRS)
            require_same(out / PAIRS, found, header)
            open_pairs(out)
            say(f"{out} is complete; nothing to do (--fresh makes it anew)")
            return
        job = _Job(model, header, recipe.couple, recipe.seed, out, where)
        shards = job.make_shards()
        facts = _totals(shards)
        write_index(out, replace(header, facts=header.facts | facts), shards)
        say(
            f"{out}: {facts['count']} pairs, {facts['nfe_mean']:.1f} evaluations each on average, "
            f"{facts['nfe_max']} at most"
        )


@dataclass(frozen=True)
class _Job:
    """What all shards of one set of pairs have in common."""

    model: Model
    header: Header
    settings: CoupleSettings
    seed: int
    out: Path
    device: torch.device

    def make_shards(self) -> list[dict[str, Any]]:
        """Write the shards that are not there yet; return what the index says of each."""
        total, size = self.settings.count, self.settings.shard
        starts = range(0, total, size)
        names = {shard_name(number, len(starts)) for number in range(len(starts))}
        if strangers := {path.name for path in self.out.glob(SHARDS)} - names:
            raise ReflowError(
                f"{self.out / min(strangers)} belongs to pairs of another --count or couple.shard; "
                "give another --out, or --fresh to discard them"
            )
        entries = []
        with watching_signals() as stop, Meter("couple", total, "pairs") as meter:
            for number, first in enumerate(starts):
                path = self.out / shard_name(number, len(starts))
                if path.exists():
                    found, _ = read_artifact(path, "pairs")
                    require_same(path, found, self.header)
                    facts = found.facts
                    meter.update(first + facts["count"])
                else:
                    facts = self.solve_shard(range(first, min(first + size, total)), path, stop, meter)
                entry = {key: facts[key] for key in ("count", "nfe_mean", "nfe_max")}
                entries.append({"file": path.name, "sha256": file_digest(path)} | entry)
        return entries

    def solve_shard(self, indices: range, path: Path, stop: Stop, meter: Meter) -> dict[str, Any]:
        """Solve and write the pairs of these numbers; return the shard's facts."""
        pairs, evaluations, solved = [], [], indices.start
        for batch in generate(
            self.model,
            indices,
            method=self.settings,
            seed=self.seed,
            stream=STREAM,
            batch=self.settings.batch,
            device=self.device,
        ):
            pairs.append(batch.pair)
            evaluations.append(batch.nfe)
            solved += len(batch.nfe)
            if stop.signal is not None:
                raise Interrupted(stop.signal, f"at pair {solved}; the complete shards are kept")
            meter.update(solved, f"{float(torch.cat(evaluations).float().mean()):.1f} NFE")
        nfe = torch.cat(evaluations)
        facts = self.header.facts | {
            "count": len(nfe),
            "nfe_mean": round(float(nfe.double().mean()), 4),
            "nfe_max": int(nfe.max()),
        }
        whole = _joined(pairs, getattr(torch, self.settings.image_dtype))
        write_shard(path, whole, replace(self.header, facts=facts))
        return facts


def _joined(pairs: list[Pair], image_dtype: torch.dtype) -> Pair:
    x0, x1 = torch.cat([pair.x0 for pair in pairs]), torch.cat([pair.x1 for pair in pairs])
    labels = [pair.label for pair in pairs if pair.label is not None]
    return Pair(x0, x1.to(image_dtype), torch.cat(labels) if labels else None)


def _totals(shards: list[dict[str, Any]]) -> dict[str, Any]:
    count = sum(shard["count"] for shard in shards)
    spent = sum(shard["count"] * shard["nfe_mean"] for shard in shards)
    return {
        "count": count,
        "nfe_mean": round(spent / count, 4),
        "nfe_max": max(shard["nfe_max"] for shard in shards),
    }

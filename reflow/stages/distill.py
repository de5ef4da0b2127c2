"""distill: fit a k-step generator on pairs, starting from a model's averaged weights."""

from pathlib import Path

from reflow.artifacts import Header
from reflow.couplings import Stored
from reflow.devices import choose_device
from reflow.distances import DISTANCES
from reflow.flow import regression_objective
from reflow.lineage import copy_of, recipe_of, require_related, require_velocity_field
from reflow.models import load_model
from reflow.noise import draw_seed
from reflow.pairs import open_pairs
from reflow.training import finished, train_model
from reflow.workspace import claim


def run(
    model: Path, pairs_path: Path, overrides: list[str], *, out: Path, device: str, fresh: bool
) -> None:
    """Distill the model at `model` on pairs that it made or learnt from, into `out`."""
    where = choose_device(device)
    teacher = load_model(model)
    require_velocity_field(teacher, model)
    recipe = recipe_of(teacher, overrides)
    settings = recipe.distill
    pairs = open_pairs(pairs_path)
    require_related(teacher, model, pairs, pairs_path, or_learnt=True)
    header = Header(
        kind="model",
        stage="distill",
        rectification=teacher.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": teacher.digest, "pairs": pairs.digest},
        facts=teacher.header.facts
        | {
            "steps": settings.steps,
            "student_steps": settings.student_steps,
            "training_samples": len(pairs),
        },
    )
    with claim(out, "model", inputs=(model, pairs_path), fresh=fresh):
        if not finished(out, header):
            train_model(
                copy_of(teacher, recipe.model),
                Stored(pairs, draw_seed(recipe.seed, "pairs")),
                regression_objective(settings.student_steps, DISTANCES[settings.distance]),
                settings,
                out=out,
                header=header,
                device=where,
            )

"""Objectives: what training minimises, from the settings of a stage."""

from reflow.flow import Distance, Objective, perceptual_objective, velocity_objective
from reflow.guidance import drop_labels, require_null_label
from reflow.objectives.distances import DISTANCES
from reflow.objectives.times import TIME_SAMPLERS, stratified
from reflow.recipes.training import VelocityFitSettings


def objective_of(
    settings: VelocityFitSettings, null_label: int | None, perceptual: Distance | None = None
) -> Objective:
    """Return the objective that a [train] or [reflow] section describes.

    perceptual: distance by which images are compared beside the velocities.

    Raises ReflowError when labels are to be dropped and the model has no null label.
    """
    times = stratified(TIME_SAMPLERS[settings.times](settings))
    distance = DISTANCES[settings.distance]
    objective = velocity_objective(times, distance)
    if perceptual is not None:
        objective = perceptual_objective(times, distance, perceptual)
    share = settings.label_dropout
    if not share:
        return objective
    return drop_labels(objective, share, require_null_label(null_label, f"label_dropout = {share:g}"))

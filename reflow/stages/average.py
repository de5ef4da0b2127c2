"""average: rebuild the weights of one averaging width from the snapshots of a training run."""

from dataclasses import replace
from pathlib import Path

from reflow.artifacts import AVERAGES, MODEL, STATE, write_artifact
from reflow.artifacts.facts import Average, model_facts
from reflow.artifacts.stage_directory import claim
from reflow.errors import ReflowError
from reflow.terminal import Meter, say
from reflow.training.averages import Profile, coefficients, gamma_of, mismatch
from reflow.training.checkpoints import already_trained
from reflow.training.snapshots import snapshots, weighted_sum

TRUSTED, USELESS = 0.05, 0.5  # mismatch of the profile above which we warn, and refuse
COMMON = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25)  # widths tried for an advice


def run(folder: Path, *, width: float, step: int | None, out: Path, fresh: bool) -> None:
    """Write the average of this width after `step` steps (default: those of the last snapshot) to `out`.

    Raises ReflowError when the snapshots in `folder` do not span it.
    """
    gamma = gamma_of(width)
    found = snapshots(folder)
    stored = [profile for snapshot in found for profile in snapshot.profiles()]
    last = found[-1].step
    if step is not None and step > last:
        raise ReflowError(f"--step {step}: the last snapshot in {folder} is of step {last}; give no more")
    wanted = Profile(gamma, last if step is None else step)
    factors = coefficients(stored, wanted)
    error = mismatch(stored, wanted, factors)
    miss = f"its profile is off by {100 * error:.2g} %"
    if error > TRUSTED:
        message = f"--width {width:g} at step {wanted.step}: {miss}; {_advice(stored, wanted.step)}"
        if error > USELESS:
            raise ReflowError(message)
        say(f"warning: {message}")
    used = {profile.step for profile, share in zip(stored, factors, strict=True) if share}
    what = Average(width, wanted.step, len(used))
    header = found[-1].model_header()
    header = replace(header, facts=replace(model_facts(header.facts), average=what).to_json())
    if (out / STATE).exists() or any(True for _ in out.glob(AVERAGES)):  # --fresh spares it, too
        raise ReflowError(f"--out {out} holds a training run; give another --out")
    with claim(out, "model", fresh=fresh):
        if already_trained(out, header):
            return
        with Meter("average", len(found), "snapshots") as meter:
            write_artifact(out / MODEL, weighted_sum(found, factors, meter.update), header)
    say(f"{out}: average of {what}; {miss}")


def _advice(stored: list[Profile], step: int) -> str:
    """Return which widths the snapshots support at this step."""
    near = min((profile.step for profile in stored), key=lambda other: abs(other - step))
    wanted = [(width, Profile(gamma_of(width), step)) for width in COMMON]
    good = [
        width
        for width, profile in wanted
        if mismatch(stored, profile, coefficients(stored, profile)) <= TRUSTED
    ]
    if good:
        return f"these snapshots support widths of {min(good):g} to {max(good):g}"
    return f"no width is supported there, --step {near} is the nearest with a snapshot"

"""The choices that recipes and the command line share, as types that help and validation read."""

from typing import Literal, get_args

FixedSolver = Literal["euler", "midpoint", "heun", "rk4", "adams2", "adams3", "adams4", "dpm2m"]
SolverName = Literal[FixedSolver, "adams", "bosh3", "dopri5", "tsit5"]
GridName = Literal["uniform", "cosine", "shifted", "edm", "calibrated"]
ObjectiveName = Literal["regress", "consistency", "meanflow"]
DistanceName = Literal["squared", "absolute", "pseudo-huber"]
PairPrecision = Literal["float32", "bfloat16", "float16"]
TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]

FIXED_SOLVERS: tuple[str, ...] = get_args(FixedSolver)  # take steps
TOLERANT_SOLVERS = ("adams", "adams2", "adams3", "adams4", "bosh3", "dopri5", "tsit5")  # take a tolerance

"""Arguments and options of commands that are shared or long, with their help."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Directory of the results.", metavar="DIR")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting; may be repeated.", metavar="SECTION.KEY=VALUE"),
]
Seed = Annotated[int | None, typer.Option(help="Root of all randomness; default: the recipe's.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard an unfinished or different result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="W1,W2,...",
        help="Shares of several --pairs, in their order; default: by number of pairs.",
    ),
]
Compiled = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the network first; default: on NVIDIA GPUs only."),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Show the run in tensorboard, wandb, trackio or mlflow; may be repeated."
    ),
]
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A stage's directory or its model.safetensors.")
]
Solver = Annotated[
    str | None,
    typer.Option(
        help="With a tolerance: adams (default, grid and order from the pilot), or a step size per "
        "sample: adams2 to adams4, bosh3, dopri5, tsit5. With --steps: euler, midpoint, heun "
        "(default), rk4, adams2 to adams4, dpm2m."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(help="Of the network: float32 (default), bfloat16 or, on GPUs, float16."),
]
SnapshotFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of a training with snapshots of averages.")
]
Width = Annotated[
    float,
    typer.Option(help="Standard deviation of the average's profile as a share of the training."),
]
AverageStep = Annotated[
    int | None, typer.Option(help="After how many steps; default: those of the last snapshot.", min=1)
]
Inspected = Annotated[
    Path,
    typer.Argument(metavar="PATH", help="An artifact, a stage's directory, a run, or a recipe."),
]
CoupleCompiled = Annotated[
    bool, typer.Option("--compile", help="Compile the network first (a minute or two).")
]
SampleOut = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help=".png (a grid), .npz, .safetensors, or a folder of .png."),
]
PairTolerance = Annotated[
    float | None,
    typer.Option(help="Wanted RMS error of the images, in data units; a pilot sees to it."),
]
Invert = Annotated[bool, typer.Option("--invert", help="Take the real training images to noise instead.")]
InvertedData = Annotated[
    str | None, typer.Option(metavar="SRC", help="With --invert: the data, if it was no built-in set.")
]
FirstPairs = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Pairs of the first round: fail when the new images cover too little of theirs (collapse).",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="First and last t at which guidance acts; default: all."),
]
SampleLabel = Annotated[
    str | None,
    typer.Option(
        help="Class of all samples: its name or, where no name is a number, number; default: all in turn."
    ),
]
SampleGuidance = Annotated[
    float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none.", min=0)
]
BakedGuidance = Annotated[
    float | None, typer.Option(help="Scale of classifier-free guidance, baked into the pairs.", min=0)
]
RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="Built-in name (digits, gaussians, fashion-mnist, cifar10, images64) or a .toml path.",
    ),
]
TrainingData = Annotated[
    str | None,
    typer.Option(
        metavar="SRC",
        help="Image folder, .npz, .zip, IDX .gz or their folder, hub:NAME[:SPLIT] or built-in set; "
        "default: the recipe's.",
    ),
]
ReflowPairs = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="Reflow: train on these pairs, with --init; may be repeated."),
]
Teacher = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Reflow: start from the model that made the pairs."),
]
PerceptualWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Compare images by LPIPS, too, with these weights of VGG-16 (.pth or .safetensors).",
    ),
]
StudentObjective = Annotated[
    str | None,
    typer.Option(
        help="What it is fitted to: regress (ends of pairs), consistency, or meanflow (average velocities, "
        "for any number of steps); default: the recipe's. Another one brings its own rate and distance."
    ),
]
StudentSteps = Annotated[
    int | None,
    typer.Option(help="Evaluations per image of the student; not with meanflow, which takes any.", min=1),
]
StudentPairs = Annotated[
    list[Path],
    typer.Option(metavar="DIR", help="Pairs that the model made or learnt from; may be repeated."),
]
SampleSolver = Annotated[
    str | None,
    typer.Option(
        help="With --nfe: euler (default), midpoint, heun, rk4, adams2 to adams4, dpm2m. "
        "With --tolerance: adams2 to adams4 (default), bosh3, dopri5, tsit5."
    ),
]
PartOf = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Make the shards of part I of N; jobs may share the directory."),
]
Grid = Annotated[
    str | None, typer.Option(help="With --steps: uniform, cosine, shifted, edm or calibrated.")
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Classes of the pairs, such as cat,dog: names or, where no name is a number, numbers; "
        "default: all in turn."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        help="TFLOP/s that the hardware sustains, for the hours of a recipe; default: 0.1 (two CPU cores) "
        "in float32, else 50 (a GPU)."
    ),
]
Evaluated = Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Models to compare.")]
EvaluationOut = Annotated[
    Path, typer.Option("--out", metavar="FILE.json", help="Where the figures go; times go beside it.")
]
EvaluatedData = Annotated[
    str | None, typer.Option(metavar="SRC", help="The data, if it was no built-in set.")
]
SweptNfe = Annotated[
    str | None, typer.Option(metavar="N1,N2,...", help="Network evaluations, such as 1,2,4,8.")
]
SweptSolver = Annotated[
    str | None,
    typer.Option(
        help="With --nfe: euler (default), midpoint, heun, rk4, adams2 to adams4, dpm2m; not of students."
    ),
]
WithLikelihood = Annotated[
    bool,
    typer.Option(
        "--likelihood",
        help="Also measure the likelihood of held-out data, by the continuity equation; not of students.",
    ),
]
SweptTolerances = Annotated[
    str | None,
    typer.Option(
        metavar="T1,T2,...",
        help="Also with a step size per sample, at these errors, in data units; not of students.",
    ),
]
FeatureFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Compare features of this network: TorchScript (.pt), ONNX (.onnx), or weights of FID's "
        "Inception (.pth). TorchScript is a program: use files that you trust.",
    ),
]
EvaluationFile = Annotated[Path, typer.Argument(metavar="FILE.json", help="Written by reflow evaluate.")]
Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Directories that hold base/, pairs/ ...; several are compared."),
]
Page = Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page goes.")]

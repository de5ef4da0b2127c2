"""Arguments and options of the commands, with their help. Choices are those of the recipes."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from reflow.cli.completion import devices, recipes, settings, trackers
from reflow.recipes.choices import (
    FixedSolver,
    GridName,
    ObjectiveName,
    PairPrecision,
    SolverName,
    TrackerName,
)

# What most commands share
Out = Annotated[Path, typer.Option("--out", help="Directory of the results.", metavar="DIR")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting of the recipe; may be repeated.",
        metavar="SECTION.KEY=VALUE",
        autocompletion=settings,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed; default: the recipe's.", min=0, metavar="N")]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME", autocompletion=devices),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard an unfinished or different result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A stage's directory or its model.safetensors.")
]
Compiled = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the network first; default: on NVIDIA GPUs."),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar=f"<{'|'.join(get_args(TrackerName))}>",
        help="Show the run in an experiment tracker; may be repeated.",
        autocompletion=trackers,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="W1,W2,...",
        help="Shares of several --pairs, in their order; default: by number of pairs.",
    ),
]
PerceptualWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also compare images by LPIPS, with these weights of VGG-16 (.pth or .safetensors).",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="First and last t at which guidance acts; default: 0,1."),
]

# train
RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="digits, gaussians, fashion-mnist, cifar10, images64, or the path of a .toml file.",
        autocompletion=recipes,
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

# couple
Count = Annotated[
    int | None, typer.Option(help="Number of pairs; default: the recipe's.", min=1, metavar="N")
]
PairTolerance = Annotated[
    float | None,
    typer.Option(
        help="RMS error of the images, in data units; a pilot run picks solver settings that meet it.",
        metavar="T",
    ),
]
Solver = Annotated[
    SolverName | None,
    typer.Option(
        help="With --tolerance: adams (default; the pilot finds grid and order) or, with a step size per "
        "sample, adams2 to adams4, bosh3, dopri5, tsit5. With --steps: heun (default) or another, but not "
        "adams, bosh3, dopri5, tsit5."
    ),
]
FixedSteps = Annotated[int | None, typer.Option(help="Steps of a fixed grid.", min=1, metavar="N")]
Grid = Annotated[GridName | None, typer.Option(help="With --steps: where the steps lie in t.")]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Classes of the pairs, such as cat,dog: names or, where no name is a number, numbers; "
        "default: cycle through all classes.",
    ),
]
BakedGuidance = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance scale, baked into the pairs.", min=0, metavar="W"),
]
FirstPairs = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Pairs of the first round: fail when the new images cover too little of theirs (collapse).",
    ),
]
Invert = Annotated[bool, typer.Option("--invert", help="Take the real training images to noise instead.")]
InvertedData = Annotated[
    str | None, typer.Option(metavar="SRC", help="With --invert: the data, unless it was a built-in set.")
]
PartOf = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Make the shards of part I of N; jobs may share the directory."),
]
Precision = Annotated[
    PairPrecision | None,
    typer.Option(help="Of the network: float32 (default), bfloat16 or, on GPUs, float16."),
]
CoupleCompiled = Annotated[
    bool, typer.Option("--compile", help="Compile the network first (a minute or two).")
]

# average
SnapshotFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of a training run with snapshots of averages.")
]
Width = Annotated[
    float,
    typer.Option(
        help="Standard deviation of the average's profile as a share of the training run.", metavar="SHARE"
    ),
]
AverageStep = Annotated[
    int | None,
    typer.Option(help="After how many steps; default: those of the last snapshot.", min=1, metavar="N"),
]

# distill
StudentPairs = Annotated[
    list[Path],
    typer.Option(metavar="DIR", help="Pairs that the model made or learned from; may be repeated."),
]
StudentObjective = Annotated[
    ObjectiveName | None,
    typer.Option(
        help="regress: ends of pairs; meanflow: average velocities, for any number of steps; consistency "
        "(experimental): agreement with itself. Default: the recipe's; another one also selects its tuned "
        "learning rate and distance."
    ),
]
StudentSteps = Annotated[
    int | None,
    typer.Option(
        help="Network evaluations per image of the student; not with meanflow, which takes any.",
        min=1,
        metavar="K",
    ),
]

# sample
SampleOut = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help=".png (a grid), .npz, .safetensors, or a folder of .png."),
]
SampleCount = Annotated[int, typer.Option(help="Number of samples.", min=1, metavar="N")]
SampleNfe = Annotated[int | None, typer.Option(help="Network evaluations per sample.", metavar="N")]
SampleTolerance = Annotated[
    float | None, typer.Option(help="Wanted error, in data units, by a step size per sample.", metavar="T")
]
SampleSolver = Annotated[
    SolverName | None,
    typer.Option(
        help="With --nfe: euler (default), midpoint, heun, rk4, adams2 to adams4, dpm2m. "
        "With --tolerance: adams2 to adams4 (default), bosh3, dopri5, tsit5."
    ),
]
SampleSeed = Annotated[int, typer.Option(help="Seed of the noise.", min=0, metavar="N")]
SampleLabel = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Class of all samples: its name or, where no name is a number, its number; "
        "default: cycle through all classes.",
    ),
]
SampleGuidance = Annotated[
    float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.", min=0, metavar="W")
]
SampleBatch = Annotated[int, typer.Option(help="Samples generated together.", min=1, metavar="N")]

# evaluate, compare, report, inspect
Evaluated = Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Models to compare.")]
EvaluationOut = Annotated[
    Path, typer.Option("--out", metavar="FILE.json", help="Where the scores go; times go beside it.")
]
EvaluatedData = Annotated[
    str | None, typer.Option(metavar="SRC", help="The data, unless it was a built-in set.")
]
SweptNfe = Annotated[
    str | None, typer.Option(metavar="N1,N2,...", help="Network evaluations, such as 1,2,4,8.")
]
SweptSolver = Annotated[
    FixedSolver | None,
    typer.Option(help="With --nfe; default: euler. Students always take Euler steps."),
]
SweptTolerances = Annotated[
    str | None,
    typer.Option(
        metavar="T1,T2,...",
        help="Also with a step size per sample, at these errors, in data units; not for students.",
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
WithLikelihood = Annotated[
    bool,
    typer.Option(
        "--likelihood",
        help="Also measure the likelihood of held-out data, by the continuity equation; not for students.",
    ),
]
EvaluationFile = Annotated[Path, typer.Argument(metavar="FILE.json", help="Written by reflow evaluate.")]
Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Directories that hold base/, pairs/ ...; several are compared."),
]
Page = Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page goes.")]
Inspected = Annotated[
    Path,
    typer.Argument(metavar="PATH", help="An artifact, a stage's directory, a run, or a recipe."),
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="TFLOPS",
        help="TFLOP/s that the hardware sustains, to estimate the hours of a recipe; default: 0.1 (two CPU "
        "cores) in float32, else 50 (a GPU).",
    ),
]

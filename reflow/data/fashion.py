"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels of ten kinds of clothing, as Debian packages it.

Xiao, Rasul & Vollgraf 2017 (arXiv:1708.07747). The 60,000 images to train on come first, then the 10,000
to test on. The files are decoded like any others; what Debian's folder adds is where they lie.
"""

from dataclasses import replace
from pathlib import Path

from reflow.data.cache import open_cached
from reflow.data.dataset import DataSet
from reflow.data.formats import Format, Watch
from reflow.data.idx import files_of_idx_folder, read_idx_folder
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

PLACE = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

IDX_FOLDER = Format("idx-folder", files_of_idx_folder, read_idx_folder, encoded=False)


def fashion_mnist(settings: DataSettings, watch: Watch) -> DataSet:
    """Return the set with its class names, which the files do not hold.

    Raises ReflowError where the package is not installed.
    """
    if not PLACE.is_dir():
        raise ReflowError(
            f"fashion-mnist: there is no {PLACE}; on Debian apt install dataset-fashion-mnist, "
            "elsewhere name a folder of the four IDX files with --data"
        )
    data = open_cached(PLACE, IDX_FOLDER, settings, watch)
    if len(data.class_names) != len(CLASSES):
        raise ReflowError(
            f"{PLACE} has {len(data.class_names)} classes, and fashion-mnist has {len(CLASSES)}; "
            "install dataset-fashion-mnist again"
        )
    return replace(data, class_names=CLASSES, known_digest=None)

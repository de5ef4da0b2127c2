"""Real handwritten digits: 1,797 grey images of 8 x 8 pixels with ten labels, which come with the package.

They are from "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), in the UCI
Machine Learning Repository, under CC BY 4.0; digits.txt beside this file says more.
"""

from importlib.resources import files

import numpy as np

from reflow.data.dataset import DataSet


def digits() -> DataSet:
    """Return the set; the sixteen grey levels are spread over 0 to 255."""
    with (
        (files("reflow.data") / "digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        levels, labels = stored["images"], stored["labels"]
    grey = np.rint(levels * (255 / 16)).astype(np.uint8)
    return DataSet(grey[:, None], labels.astype(np.int64), tuple(str(digit) for digit in range(10)))

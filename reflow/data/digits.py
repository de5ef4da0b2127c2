"""Real handwritten digits: 1,797 grey images of 8 x 8 pixels with ten labels, from scikit-learn.

Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits".
"""

import numpy as np

from reflow.data.dataset import DataSet


def digits() -> DataSet:
    """Return the set; the sixteen grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return DataSet(grey[:, None], labels, tuple(str(digit) for digit in range(10)))

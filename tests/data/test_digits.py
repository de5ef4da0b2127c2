"""The digits of the package are scikit-learn's."""

import numpy as np
from sklearn.datasets import load_digits

from reflow.data.digits import digits


def test_pixels_and_labels_are_those_of_scikit_learn() -> None:
    found, wanted = digits(), load_digits()
    pixels = np.rint(wanted.images * (255 / 16)).astype(np.uint8)
    assert found.labels is not None
    assert (found.stored.dtype, found.labels.dtype) == (np.uint8, np.int64)
    assert found.stored.tobytes() == pixels.tobytes()
    assert found.stored.shape == (1797, 1, 8, 8)
    assert found.labels.tobytes() == wanted.target.astype(np.int64).tobytes()
    assert found.class_names == tuple("0123456789")

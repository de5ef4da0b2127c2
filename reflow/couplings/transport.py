"""Minibatch optimal transport: noise is assigned to data so that the paths of a group are shortest.

Of n draws of noise and n of data, the exact assignment minimises the transport cost, the sum of
|x1 - x0|^2, over all n! permutations. Paths then cross less, and every example and every draw of noise
is still used once. Pooladian et al. 2023 (arXiv:2304.14772), Tong et al. 2023 (arXiv:2302.00482).

Shapes: x0, x1 (n, *event); label (n,).
"""

from dataclasses import replace

import numpy as np
import torch

from reflow.couplings import Coupling, Numbers
from reflow.devices import most_precise, to_device
from reflow.flow import Pair
from reflow.randomness import Draws


class Transported:
    """A coupling whose noise is assigned to the data of its group: `group` rows of the whole batch.

    Whoever owns only some rows of a group draws and assigns all of it, so the batch is the same however it
    is divided. Only noise changes its place: the order of the data and what else is drawn stay.
    """

    def __init__(self, coupling: Coupling, group: int) -> None:
        self.coupling, self.group = coupling, group

    def draw(self, examples: Numbers, draws: Draws) -> Pair:
        """Return examples that are numbered on like the rows of their batch."""
        rows = self._whole_groups(draws)
        pair = self.coupling.draw(examples[0] - draws.rows[0] + rows, replace(draws, rows=rows))
        assigned = [
            first + assignment(_part(pair, slice(first, first + self.group)))
            for first in range(0, len(rows), self.group)
        ]
        noise = to_device(torch.from_numpy(np.concatenate(assigned)), draws.device)
        pair = pair._replace(x0=pair.x0[noise])
        if len(rows) == len(draws):
            return pair
        return _part(pair, to_device(torch.from_numpy(np.searchsorted(rows, draws.rows)), draws.device))

    def _whole_groups(self, draws: Draws) -> Numbers:
        """Return all rows of the groups that some rows belong to; a last group may be smaller."""
        groups: Numbers = np.unique(draws.rows // self.group)
        rows = (groups[:, None] * self.group + np.arange(self.group)).ravel()
        return rows[rows < draws.batch]


def assignment(pair: Pair) -> Numbers:
    """Return which noise goes to each of the data, a permutation (n,); labels keep theirs among themselves.

    It is found on the CPU, by SciPy's version of the algorithm of Jonker and Volgenant.
    """
    from scipy.optimize import linear_sum_assignment  # half a second that only this setting needs

    gain = _products(pair)
    label = np.zeros(len(gain)) if pair.label is None else pair.label.cpu().numpy()
    chosen = np.arange(len(gain))
    for name in np.unique(label):
        (members,) = np.nonzero(label == name)
        _, best = linear_sum_assignment(gain[np.ix_(members, members)], maximize=True)
        chosen[members] = members[best]
    return chosen


def _products(pair: Pair) -> np.ndarray[tuple[int, int], np.dtype[np.floating]]:
    """Return <x1, x0> for all data and noise (n, n): what decides, as |x1|^2 and |x0|^2 add up to the same.

    In float64, so that a process with other kernels comes to the same assignment.
    """
    x0, x1 = (end.flatten(1).to(most_precise(end.device)) for end in (pair.x0, pair.x1))
    products: np.ndarray[tuple[int, int], np.dtype[np.floating]] = (x1 @ x0.T).cpu().numpy()
    return products


def _part(pair: Pair, chosen: slice | torch.Tensor) -> Pair:
    x0, x1, label = pair
    return Pair(x0[chosen], x1[chosen], None if label is None else label[chosen])

"""Work on the next batch while this one is trained on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """Batches by number; whenever one is handed out, a thread begins to make the next one.

    `make` depends on the number alone, so what was made in vain is dropped.
    """

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make
        self.pool = ThreadPoolExecutor(1)
        self.pending: tuple[int, Future[Batch]] | None = None

    def __call__(self, number: int) -> Batch:
        """Return batch `number`."""
        if self.pending is None or self.pending[0] != number:
            self.pending = number, self.pool.submit(self.make, number)
        batch = self.pending[1].result()
        self.pending = number + 1, self.pool.submit(self.make, number + 1)
        return batch

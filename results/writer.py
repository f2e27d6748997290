"""A thread that writes results while the next frames are computed."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

WRITE_BEHIND = 8  # results that may wait for the thread


class WriteBehind:
    """Runs calls in order in one thread. `put` or the end of the ``with`` block raises the first call's error."""

    def __enter__(self) -> "WriteBehind":
        self.pool = ThreadPoolExecutor(1)
        self.waiting: deque[Future] = deque()
        return self

    def put(self, function: Callable, *args) -> None:
        """Queue ``function(*args)``; blocks while more than `WRITE_BEHIND` calls are queued."""
        self.waiting.append(self.pool.submit(function, *args))
        while len(self.waiting) > WRITE_BEHIND or self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()

    def __exit__(self, exc_type: type[BaseException] | None, *_) -> None:
        self.pool.shutdown(wait=True, cancel_futures=exc_type is not None)
        if exc_type is None:
            for call in self.waiting:
                call.result()

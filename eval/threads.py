"""Work in threads beside the main one's, begun ahead of its turn."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

THREADS = min(8, os.cpu_count() or 1)

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Future[Result]]:
    """The work on each item in order, begun with `count` items at most that are not asked for.

    The items are taken in the caller's thread, each as soon as its work may begin.
    """
    rest = iter(items)
    begun = deque(pool.submit(work, item) for item in islice(rest, count))
    while begun:
        yield begun.popleft()
        begun.extend(pool.submit(work, item) for item in islice(rest, 1))

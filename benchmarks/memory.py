"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")


def peak_of(work: Callable[[], T]) -> tuple[T, int, int]:
    """Do some work and measure it: → its result, the MB held before it, and the most MB held during it.

    The memory held is sampled every other millisecond, because the system's own figure for the peak of a fresh process
    may be that of its parent. Memory that was freed earlier is first given back to the system; otherwise the work could
    use it again and nothing would show.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's
    if trim is not None:
        trim(0)
    me, done = psutil.Process(), threading.Event()
    before = peak = me.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, me.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, before // 2**20, peak // 2**20

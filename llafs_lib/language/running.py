"""Running a coroutine to its end from plain code, wherever that code runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also from a notebook, whose own event loop is busy. Ctrl-C cancels it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: dict[str, Any] = {}
    started = threading.Event()

    async def main() -> T:
        outcome["loop"], outcome["task"] = asyncio.get_running_loop(), asyncio.current_task()
        started.set()
        return await coroutine

    def work() -> None:
        try:
            outcome["value"] = asyncio.run(main())
        except BaseException as error:  # handed over, to be raised where it is waited for
            outcome["error"] = error

    thread = threading.Thread(target=work, name="asking")
    thread.start()
    try:
        thread.join()
    except BaseException:
        started.wait()
        outcome["loop"].call_soon_threadsafe(outcome["task"].cancel)
        thread.join()
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]

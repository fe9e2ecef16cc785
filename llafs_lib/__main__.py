"""The command `llafs`, also as `python -m llafs_lib`: a process that ends in one line when it is interrupted."""

from __future__ import annotations

import os
import signal
import sys
import time

_signals: list[tuple[int, float]] = []  # what came, and when


def run() -> int:
    """Run the command line; returns the exit status: `tools.cli.main`'s, 130 after Ctrl-C, 143 after SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell starts what runs in the background
            signal.signal(number, _interrupt)
    try:
        from llafs_lib.tools.cli import main  # takes a moment, in which Ctrl-C counts as well

        status = main()
    except BaseException:  # what a library has made of the interrupt
        if not _signals:
            raise
        status = None
    if not _signals:
        return status
    if status != 130:  # else it is said already
        _say()
    return 128 + _signals[0][0]


def _interrupt(number: int, frame: object) -> None:
    """Ends the work in good order the first time; at once, a second or more later. `timeout` sends a signal twice."""
    _signals.append((number, time.monotonic()))
    if len(_signals) == 1:
        raise KeyboardInterrupt
    if _signals[-1][1] - _signals[0][1] > 1:
        _say()
        os._exit(128 + number)


def _say() -> None:
    text = "llafs: interrupted. What was finished is kept: give the same command again to go on.\n"
    os.write(2, text.encode())


if __name__ == "__main__":
    sys.exit(run())

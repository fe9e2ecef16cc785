"""The command `llafs`, also as `python -m llafs_lib`: a process that ends in one line when it is interrupted."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from llafs_lib.errors import INTERRUPTED

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
    status_of_signal = 128 + _signals[0][0]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # or the next one would end the process before it has said its status
    threading.Thread(target=_end, args=[status_of_signal], daemon=True).start()
    if status != 130:  # else it is said already
        _say()
    return status_of_signal


def _interrupt(number: int, frame: object) -> None:
    """Ends the work in good order the first time; at once, a second or more later. `timeout` sends a signal twice."""
    _signals.append((number, time.monotonic()))
    if len(_signals) == 1:
        logging.disable()  # libraries tell at length that their work was cut short
        raise KeyboardInterrupt
    if _signals[-1][1] - _signals[0][1] > 1:
        _say()
        os._exit(128 + number)


def _end(status: int) -> None:
    """Ends the process where a thread, such as a question to a server, would hold it up."""
    time.sleep(5)
    os._exit(status)


def _say() -> None:
    os.write(2, f"llafs: {INTERRUPTED}\n".encode())


if __name__ == "__main__":
    sys.exit(run())

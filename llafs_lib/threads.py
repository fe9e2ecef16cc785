"""How many threads PyTorch computes with, so that a run beside other work is slow and not stuck.

PyTorch splits most operations over its threads and waits for all of them at the end of each, hundreds of times in one
training step. By default a thread that waits does not sleep: it spins, for about 3 ms. On a busy machine the thread
that it waits for has no core to run on, so each of these waits burns the time that would have ended it. A training step
of 0.06 s was seen to take 10 to 26 s (`docs/results.md`).
"""

from __future__ import annotations

import os
import sys

# With half the cores an idle machine of two loses a tenth to a fifth of its speed, and a busy one makes progress.
# On a processor that runs two threads per core this is the number of real cores.
_CORES_PER_THREAD = 2

# A thread that waits looks this often and then sleeps. Sleeping at once (0) takes twice as long on an idle machine.
_SPINS = "1000"


def threads() -> int:
    """The number of threads for PyTorch: `OMP_NUM_THREADS` if that is set, else half the cores, and at least one.

    It depends on the machine and not on its load, because PyTorch's results depend on it in their last digits.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _CORES_PER_THREAD)


def threads_in_use() -> int | None:
    """The number of threads that PyTorch has in this process; None where PyTorch is not loaded."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


def share_cores() -> None:
    """Set the environment so that PyTorch, in this process or one that it starts, keeps to `threads()` and sleeps.

    It must be called before PyTorch is loaded, which reads these variables once. What the user has set stays.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads())
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # every OpenMP library understands this one
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # GNU's, which PyTorch has on Linux

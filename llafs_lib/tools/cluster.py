"""Ray: what a task is given, and how a cluster is found."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llafs_lib.errors import LlafsError
from llafs_lib.settings import check_parameters, parameter
from llafs_lib.tools.execution import import_extra


@dataclass(frozen=True)
class Resources:
    """What a Ray task is given, and where.

    Raises:
        LlafsError: an impossible value.
    """

    address: str = parameter(
        "auto", "machines", "of a Ray cluster; auto: one that is running here, else this machine alone; local"
    )
    cpus: float = parameter(1.0, "machines", "for each task; also its number of threads", low=0.01)
    gpus: float = parameter(0.0, "machines", "for each task; with 0.25, four of them share one", low=0)
    retries: int = parameter(
        2, "machines", "how often a task that failed, or whose machine died, is tried again", low=0
    )

    def __post_init__(self) -> None:
        check_parameters(self)


def environment() -> dict[str, str]:
    """What of this process's environment a task needs on another machine. Never a key: set those on the machines."""
    there = {k: v for k, v in os.environ.items() if k in ("LLAFS_DATA", "OPENAI_BASE_URL")}
    if "LLAFS_DATA" in there:
        there["LLAFS_DATA"] = str(Path(there["LLAFS_DATA"]).resolve())
    return there


@contextlib.contextmanager
def cluster(resources: Resources) -> Iterator[Any]:
    """Ray, connected to a cluster that has what a task asks for.

    Raises:
        LlafsError: Ray is not installed, there is no cluster at the address, or it is too small.
    """
    ray = import_extra("ray", "notebooks,cluster")
    ours = not ray.is_initialized()
    if ours:
        with _starting():
            _connect(ray, resources.address)
    try:
        have = ray.cluster_resources()
        if have.get("GPU", 0) < resources.gpus or have.get("CPU", 0) < resources.cpus:
            raise LlafsError(
                f"a task asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, but all of the cluster has "
                f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}."
            )
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    if address not in ("auto", "local"):
        _check_answers(address)
    try:
        if address != "local":
            ray.init(address=address, **quiet)
            return
    except ConnectionError as error:
        if address != "auto":
            raise LlafsError(f"no Ray cluster answers at {address!r}: {error}") from None
        print("no Ray cluster is running here: the tasks share this machine", flush=True)
    ray.init(address="local", include_dashboard=False, **quiet)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Turn whatever Ray raises when it does not start into one sentence, and leave SIGTERM to who had it before."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except LlafsError:
        raise
    except Exception as error:  # of half a dozen types, such as a time limit of its own on a loaded machine
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise LlafsError(f"Ray did not start ({reason}): run again when less runs beside it.") from error
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Ray goes on trying an address for minutes, so this first tries for ten seconds whether anything answers there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise LlafsError(
            f"no Ray cluster answers at {address!r} ({error}): give host:port of its head node, or auto."
        ) from None

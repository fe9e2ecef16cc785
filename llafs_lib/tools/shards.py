"""The rows of a bank of one's own images, made as Ray tasks: each task describes a slice of the images.

A slice whose machine dies goes on where it was on another one. All machines must see the annotations, the images and
the bank's folder under one path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from llafs_lib.bank_folder import ROWS, SHARDS, THUMBNAILS, Wanted, describer, fill_rows
from llafs_lib.data.own import open_own
from llafs_lib.errors import LlafsError
from llafs_lib.progress import bar
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.shards import join_banks
from llafs_lib.tools.cluster import Resources, cluster, environment

PER_TASK = 256  # images: half a minute on one core, which is lost at most if a machine dies without a trace


def make_rows(
    folder: Path,
    annotations: Path,
    images: Path | None,
    wanted: Wanted,
    resources: Resources,
    per_task: int = PER_TASK,
) -> None:
    """Make `support_bank` and the thumbnails of a bank folder; `make_bank_folder` then calibrates it.

    Raises:
        LlafsError: there is no cluster, or a task failed more often than it may be tried again.
    """
    split = open_own(annotations, images)
    ids = sorted(split.shown(wanted.min_area))
    _, made_from = describer(split, wanted)
    slices = [ids[n : n + per_task] for n in range(0, len(ids), per_task)]
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    with cluster(resources) as ray, bar(len(slices), "support bank", f"{per_task} images") as progress:
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": resources.retries}
        task = ray.remote(retry_exceptions=True, **options)(_make_slice)
        given, threads = environment(), max(int(resources.cpus), 1)
        paths = (str(folder.resolve()), str(annotations.resolve()), images and str(images.resolve()))
        pending = [
            task.remote(os.getcwd(), paths, vars(wanted), n, one, threads, given) for n, one in enumerate(slices)
        ]
        while pending:
            (ready,), pending = ray.wait(pending, num_returns=1)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                reason = str(getattr(error, "cause", error)).splitlines()[0]
                raise LlafsError(f"a part of the bank failed: {reason} Run the command again: it goes on.") from None
            progress.update()
    parts = [SupportBank.load(folder / SHARDS / f"{n:06d}") for n in range(len(slices))]
    shutil.rmtree(folder / ROWS, ignore_errors=True)
    join_banks(folder / ROWS, parts, made_from)
    shutil.rmtree(folder / SHARDS)


def _make_slice(
    place: str,
    paths: tuple[str, str, str | None],
    wanted: Mapping[str, Any],
    number: int,
    ids: list[int],
    threads: int,
    given: Mapping[str, str],
) -> None:
    """One slice, in a Ray worker."""
    os.chdir(place)
    os.environ.update(given, OMP_NUM_THREADS=str(threads), LLAFS_PROGRESS="none")
    import torch

    torch.set_num_threads(threads)
    folder, annotations, images = Path(paths[0]), Path(paths[1]), paths[2]
    chosen, split = Wanted(**wanted), open_own(annotations, images)
    shown = split.shown(chosen.min_area)
    segmenter, made_from = describer(split, chosen)
    rows = folder / SHARDS / f"{number:06d}"
    with FileLock(rows.with_suffix(".lock")):
        try:
            SupportBank.load(rows, **made_from, images=ids)
        except LlafsError:
            own = {i: shown[i] for i in ids}
            fill_rows(rows, folder / THUMBNAILS, split, own, segmenter, {**made_from, "images": ids})

"""Kill the series and sweeps at random moments, go on with them, and compare with a run that was never killed.

    python benchmarks/kills.py                 100 kills: of `llafs tutorial`, and of `llafs sweep` every fourth time
    python benchmarks/kills.py --sweep         60 runs on two Ray nodes; a node is killed once, and the driver

A moment is drawn from the processor time that the next notebook takes, so that short notebooks are hit as often as long
ones. One kill in two takes all processes at once, as a power cut does; the other takes the driver alone, and its
kernels have to notice. After each kill all files are opened, and artifacts compared with their manifests. At the end
all must be, but for the times, as where nothing was killed; of `notebooks/` only the files' names are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from safetensors.numpy import load_file

from llafs_lib.artifacts import MADE_BY, NOTEBOOKS, RunFolder
from llafs_lib.errors import LlafsError
from llafs_lib.tools.tutorial import project_root

CHOSEN = "--budget tiny --queries 2 --segmenters hsnet --shots 1"  # every notebook, with little to do
COMMANDS = {"tutorial": "tutorial", "sweep": "sweep --folds 0-1 --seeds 0 --address local"}
OPENS = {
    **dict.fromkeys((".json", ".ipynb"), lambda path: json.loads(path.read_text(encoding="utf-8"))),
    ".png": lambda path: Image.open(path).load(),
    ".npy": np.load,
    ".npz": lambda path: dict(np.load(path)),
    ".html": lambda path: path.read_text(encoding="utf-8").rindex("</html>"),
    ".safetensors": load_file,
}
# What may differ: "seconds": {"training": 3.1} in JSON, the hash or the seal of such a file, the nanosecond at which a
# file was written, a commit made meanwhile, 12 s, 870 MB in what people read, and the columns of such numbers in
# report.html, whose others are also in results.json.
TIMES = r'"(seconds\w*|peak_rss_mb)": (\{[^{}]*\}|[\d.]+)|"(sha256|seal|git_commit)": "?\w+'
TIMES += r"|\b\d{19}\b|\b[\d.]+ (s|ms|min|MB|hours?)\b|<td>\d+</td>"


def project(folder: Path) -> Path:
    """A project folder of its own, with its own data, caches and runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("llafs_lib", "notebooks", "docs"):
        (folder / name).symlink_to(project_root() / name)
    return folder


def start(place: Path, command: str) -> psutil.Popen:
    with open(place / "printed.log", "a") as log:
        words = [sys.executable, "-m", "llafs_lib", *command.split(), *CHOSEN.split()]
        return psutil.Popen(words, cwd=place, stdout=log, stderr=log, start_new_session=True)


def family(driver: psutil.Popen) -> list[psutil.Process]:
    return [driver, *driver.children(recursive=True)]


def watch(driver: psutil.Popen, most: float = math.inf) -> float:
    """Until it ends, or has used `most` seconds of a processor, whatever else runs on the machine: how many it used."""
    used: dict[psutil.Process, float] = {}
    while driver.poll() is None and sum(used.values()) < most:
        for process in family(driver):
            with suppress(psutil.NoSuchProcess):
                used[process] = sum(process.cpu_times()[:2])
        time.sleep(0.3)
    return sum(used.values())


def runs(process: psutil.Process) -> bool:
    """Whether it does anything: one that has ended may stay in the table of processes until it is asked for."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def files_of(place: Path, *tops: str) -> dict[str, Path]:
    """All that a reader would find. What has a temporary name is nothing yet, and TensorBoard's are named by times."""
    paths = {str(p.relative_to(place)): p for top in tops for p in (place / top).rglob("*") if p.is_file()}
    return {n: p for n, p in paths.items() if not re.search(r"\.partial\.|/tensorboard/|\.(lock|holder)$", n)}


def half_written(place: Path) -> list[str]:
    """Files that do not open, and artifacts that are not what their manifests describe."""
    bad = []
    for name, path in files_of(place, "runs", "data/cache").items():
        try:
            OPENS.get(path.suffix, Path.stat)(path)
            artifact = path.name.removesuffix(".manifest.json")
            if artifact in MADE_BY and artifact != path.name:
                RunFolder.at(path.parent).require(artifact)
        except (LlafsError, OSError, ValueError, LookupError, SyntaxError) as error:
            bad.append(f"{name}: {type(error).__name__}: {error}")
    return bad


def differences(place: Path, reference: Path) -> list[str]:
    """What a finished project holds that the reference does not, or otherwise; and what a kill left lying about."""
    here, there = ({n: timeless(p, top) for n, p in files_of(top, "runs").items()} for top in (place, reference))
    odd = [f"{name} differs or is missing" for name in here | there if here.get(name) != there.get(name)]
    return odd + [f"{p} is left" for p in place.glob("runs/**/*.partial*")]


def timeless(path: Path, place: Path) -> bytes:
    if "notebooks" in path.parts or path.name == "sweep.log":
        return b""
    if path.suffix not in (".json", ".md", ".html"):
        return path.read_bytes()
    return re.sub(TIMES, "", path.read_text(encoding="utf-8").replace(str(place), "")).encode()


def stamps(place: Path, notebook: str) -> list[Path]:
    """Of a notebook, one for each run that has finished it."""
    return [*place.glob(f"runs/**/{notebook}.stamp.json")]


def kill_until_finished(kind: str, place: Path, reference: Path, whole: float, rng: random.Random, most: int) -> int:
    """Start, kill and start again until it ends by itself; how often. `whole`: seconds that the reference used."""
    took = {n: sum(json.loads(p.read_text())["seconds"] for p in stamps(reference, n)) for n in NOTEBOOKS}
    for kills in range(most + 1):
        ahead = [took[n] for n in NOTEBOOKS if len(stamps(place, n)) < len(stamps(reference, n))] or [0]
        share = 0.1 + 1.3 * ahead[0] / sum(took.values())  # a tenth for the start
        driver = start(place, COMMANDS[kind])
        used = watch(driver, rng.uniform(0, share * whole) if kills < most else math.inf)
        if driver.poll() is not None:
            break
        processes = family(driver)
        for process in processes if rng.random() < 0.5 else processes[:1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        left, bad = psutil.wait_procs(processes, timeout=120)[1], half_written(place)
        assert not left and not bad, f"after a kill at {used:.1f} s: still running {left}, half-written {bad}"
    assert driver.returncode == 0, f"the killed series failed, see {place}/printed.log"
    return kills


def many_kills(folder: Path, wanted: int, rng: random.Random) -> None:
    whole, killed, number, equal, started = {}, 0, 0, 0, time.monotonic()
    while killed < wanted:
        number += 1
        kind = "tutorial" if number % 4 else "sweep"
        reference, place = folder / f"reference-{kind}", project(folder / f"killed{number}")
        if kind not in whole:
            driver = start(project(reference), COMMANDS[kind])
            whole[kind] = watch(driver)
            assert driver.returncode == 0, f"the reference failed, see {reference}/printed.log"
        killed += (kills := kill_until_finished(kind, place, reference, whole[kind], rng, wanted - killed))
        odd, minutes = differences(place, reference), (time.monotonic() - started) / 60
        print(f"{kind}: {kills} kills, then {odd or 'equal'}; {killed} in {minutes:.0f} min", flush=True)
        equal += not odd
        if not odd:
            shutil.rmtree(place)
    print(f"{killed} kills of {number} series: 0 half-written files, {number} finished, {equal} of them equal")


def sweep_on_two_nodes(folder: Path, seeds: int, rng: random.Random) -> None:
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # or Ray kills, too, where other work fills the memory
    from ray.cluster_utils import Cluster

    place, total, node, seen = project(folder / "two-nodes"), 4 * seeds, {"num_cpus": 1}, set()
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    command = f"sweep --seeds 0-{seeds - 1} --address {cluster.address}"

    def wait_for(n_runs: int, then: str) -> None:
        while len(stamps(place, "05*")) < n_runs:
            assert driver.poll() is None, f"the sweep has ended too early, see {place}/printed.log"
            seen.update(psutil.Process().children(recursive=True))
            time.sleep(1)
        print(f"after {len(stamps(place, '05*'))} runs: {then}", flush=True)

    driver = start(place, command)
    wait_for(rng.randint(1, total // 3), "a node is killed")
    cluster.remove_node(second, allow_graceful=False)
    for _ in range(5):
        with suppress(Exception):  # a node gives up after 15 s, too soon where other work takes the cores
            cluster.add_node(**node)
            break
    wait_for(rng.randint(total // 3 + 1, 2 * total // 3), "the driver is killed")
    driver.kill()
    driver.wait()
    driver = start(place, command)
    wait_for(total, "that is all")
    status, _ = driver.wait(), cluster.shutdown()
    end = time.monotonic() + 120
    while (left := [p for p in seen if runs(p)]) and time.monotonic() < end:
        time.sleep(1)
    starts = [log.read_text(encoding="utf-8").count("dataset toy, ") for log in place.glob("runs/**/sweep.log")]
    print(f"{len(stamps(place, '05*'))} of {total} finished, status {status}; started once {starts.count(1)},")
    print(f"twice {starts.count(2)}, more often {sum(n > 2 for n in starts)}; {len(seen)} processes, left: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="a sweep on two Ray nodes instead")
    parser.add_argument("--seeds", type=int, default=15, help="of the sweep, four folds each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default="runs/kills", help="to work in (default: %(default)s)")
    chosen = parser.parse_args()
    folder, rng = chosen.folder.resolve(), random.Random(chosen.seed)
    os.environ.pop("LLAFS_DATA", None)  # a series draws its own
    sweep_on_two_nodes(folder, chosen.seeds, rng) if chosen.sweep else many_kills(folder, chosen.kills, rng)


if __name__ == "__main__":
    main()

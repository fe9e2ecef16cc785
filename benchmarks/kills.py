"""Kill the series and sweeps at random moments, go on with them, and compare with a run that was never killed.

    python benchmarks/kills.py                 100 kills: of `llafs tutorial`, and of `llafs sweep` every fourth time
    python benchmarks/kills.py --sweep         60 runs on two Ray nodes; a node is killed once, and the driver

A series is killed and started again until it has finished. A moment is drawn from the processor time that the next
notebook takes, so that short notebooks are hit as often as long ones. One kill in two takes all processes at once, as a
power cut does; the other takes the driver alone, and its kernels have to notice. After each kill all files are opened,
and artifacts compared with their manifests. At the end all that is left must be, but for the times, what the reference
has; `notebooks/` and `tensorboard/`, which are full of times, are compared by the names of their files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from safetensors.numpy import load_file

from llafs_lib.artifacts import MADE_BY, NOTEBOOKS, RunFolder
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings
from llafs_lib.tools.sweep import Sweep
from llafs_lib.tools.tutorial import project_root

CHOSEN = {"budget": "tiny", "queries": 3, "segmenters": "hsnet", "shots": 1}  # every notebook, with little to do
LLAFS = [sys.executable, "-m", "llafs_lib"]
OPTIONS = [word for name, value in CHOSEN.items() for word in (f"--{name}", str(value))]
COMMANDS = {
    "tutorial": [*LLAFS, "tutorial", *OPTIONS],
    "sweep": [*LLAFS, "sweep", *OPTIONS, *"--folds 0-1 --seeds 0 --address local".split()],
}
RUNS = {"tutorial": 1, "sweep": 2}
STARTUP = {"tutorial": 5.0, "sweep": 20.0}  # s of a processor, about
OPENS = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".ipynb": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".html": lambda path: path.read_text(encoding="utf-8").rindex("</html>"),
    ".safetensors": load_file,
    ".npy": np.load,
    ".npz": lambda path: dict(np.load(path)),
    ".png": lambda path: Image.open(path).load(),
    ".jpg": lambda path: Image.open(path).load(),
}
# What may differ: "seconds": {"training": 3.1} in JSON, the hash of such a file, 12 s or 870 MB in what people read.
TIMES = r'"(seconds\w*|peak_rss_mb)": (\{[^{}]*\}|[\d.]+)|"(sha256|mtime_ns)": "?\w+|\b[\d.]+ (s|ms|min|MB|hours?)\b'
COLUMNS = r"<td>\d+</td>"  # of seconds and MB in report.html; its other numbers are also in results.json


def project(folder: Path) -> Path:
    """A project folder of its own, with its own data, caches and runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("llafs_lib", "notebooks", "docs"):
        (folder / name).symlink_to(project_root() / name)
    return folder


def start(command: list[str], place: Path) -> subprocess.Popen:
    with open(place / "printed.log", "a") as log:
        return subprocess.Popen(command, cwd=place, stdout=log, stderr=log, start_new_session=True)


def family(pid: int) -> list[psutil.Process]:
    """A process that may have ended, and all that it has started."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def processor_seconds(pid: int) -> float:
    """What a process and all that it has started have used so far; other work on the machine does not count."""
    total = 0.0
    for process in family(pid):
        try:
            total += sum(process.cpu_times()[:4])  # its own, and that of children which have ended
        except psutil.NoSuchProcess:
            continue
    return total


def kill(driver: subprocess.Popen, all_at_once: bool) -> None:
    """Kill a driver, with or without what it has started, and wait until all of it is gone."""
    processes = family(driver.pid)
    for process in processes if all_at_once else processes[:1]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    driver.wait()
    _, left = psutil.wait_procs(processes, timeout=120)
    assert not left, f"still running two minutes after the kill: {left}"


# --- what must hold after each kill, and at the end ------------------------------------------------------------------


def files_of(place: Path, *tops: str) -> dict[str, Path]:
    """All that a reader would find. What has a temporary name is nothing yet."""
    paths = [p for top in tops for p in (place / top).rglob("*") if p.is_file()]
    return {str(p.relative_to(place)): p for p in paths if ".partial." not in str(p) and p.suffix != ".lock"}


def half_written(place: Path) -> list[str]:
    """Files that do not open, and artifacts that are not what their manifests describe."""
    bad = []
    for name, path in files_of(place, "runs", "data/cache").items():
        try:
            OPENS.get(path.suffix, Path.stat)(path)
            artifact = path.name.removesuffix(".manifest.json")
            if artifact in MADE_BY and artifact != path.name:
                run = RunFolder("", "", 0)
                run.path = path.parent
                run.require(artifact)
        except (LlafsError, OSError, ValueError, LookupError, SyntaxError) as error:
            bad.append(f"{name}: {type(error).__name__}: {error}")
    return bad


def differences(place: Path, reference: Path) -> list[str]:
    """What a finished project holds that the reference does not, or otherwise; and what a kill left lying about."""
    here, there = files_of(place, "runs"), files_of(reference, "runs")
    odd = [f"{name} is in one of them only" for name in here.keys() ^ there if "tensorboard" not in name]
    odd += [
        f"{name} differs"
        for name in here.keys() & there
        if timeless(here[name], place) != timeless(there[name], reference)
    ]
    return odd + [f"{p} is left" for p in place.glob("runs/**/*.partial*")]


def timeless(path: Path, place: Path) -> bytes:
    if {"notebooks", "tensorboard"} & {*path.parts} or path.name == "sweep.log":
        return b""
    content = path.read_bytes()
    if path.suffix not in (".json", ".md", ".html"):
        return content
    return re.sub(f"{TIMES}|{COLUMNS}", "", content.decode().replace(str(place), "")).encode()


# --- kills -----------------------------------------------------------------------------------------------------------


def stamps(place: Path, notebook: str = "*") -> list[Path]:
    """Of the notebooks that have finished."""
    return [*place.glob(f"runs/**/{notebook}.stamp.json")]


def reference_of(kind: str, place: Path) -> dict[str, float]:
    """Run without a kill, unless an earlier call has; about how many seconds of a processor each notebook took."""
    kept = place / "seconds.json"
    if not kept.is_file():
        driver, used = start(COMMANDS[kind], project(place)), 0.0
        while driver.poll() is None:
            used = max(used, processor_seconds(driver.pid))
            time.sleep(1)
        assert driver.returncode == 0, f"the reference failed, see {place}/printed.log"
        took = {n: sum(json.loads(p.read_text())["seconds"] for p in stamps(place, n)) for n in NOTEBOOKS}
        kept.write_text(json.dumps({name: used * t / sum(took.values()) for name, t in took.items() if t}))
    return json.loads(kept.read_text())


def kill_until_finished(kind: str, place: Path, seconds: dict[str, float], rng: random.Random, most: int) -> int:
    """Start, kill and start again until the command ends by itself; the number of kills, at most `most`."""
    project(place)
    for kills in range(most + 1):
        left = [n for n in seconds if len(stamps(place, n)) < RUNS[kind]]
        moment = rng.uniform(0, 1.3 * (STARTUP[kind] + (seconds[left[0]] if left else 0)))
        driver = start(COMMANDS[kind], place)
        while driver.poll() is None and (kills == most or processor_seconds(driver.pid) < moment):
            time.sleep(rng.uniform(0, 0.5))
        if driver.poll() is not None:
            break
        kill(driver, all_at_once=rng.random() < 0.5)
        bad = half_written(place)
        assert not bad, f"after a kill at {moment:.1f} s: {bad}"
    assert driver.returncode == 0, f"the killed series failed, see {place}/printed.log"
    return kills


def many_kills(folder: Path, wanted: int, rng: random.Random) -> None:
    killed, number, equal, started = 0, 0, 0, time.monotonic()
    while killed < wanted:
        kind = "sweep" if number % 4 == 3 else "tutorial"
        reference, place = folder / f"reference-{kind}", folder / f"killed{number}"
        killed += (kills := kill_until_finished(kind, place, reference_of(kind, reference), rng, wanted - killed))
        number, minutes = number + 1, (time.monotonic() - started) / 60
        odd = differences(place, reference)
        print(f"{kind}: {kills} kills, then {odd or 'equal'}; {killed} in {minutes:.0f} min", flush=True)
        if not odd:
            equal += 1
            shutil.rmtree(place)
    print(f"{killed} kills of {number} series: 0 half-written files, {number} finished, {equal} of them equal")


# --- a sweep on two nodes --------------------------------------------------------------------------------------------


def sweep_on_two_nodes(folder: Path, seeds: int, rng: random.Random) -> None:
    from ray.cluster_utils import Cluster

    os.chdir(project(folder / "two-nodes"))
    sweep, place, node = Sweep(Settings(**CHOSEN), seeds=tuple(range(seeds))), Path.cwd(), {"num_cpus": 1}
    total, seen = len(sweep.runs()), set()
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    command = [*LLAFS, "sweep", *OPTIONS, "--seeds", f"0-{seeds - 1}", "--address", cluster.address]

    def wait_for(n_runs: int) -> None:
        while len(stamps(place, "05*")) < n_runs:
            assert driver.poll() is None, f"the sweep has ended too early, see {place}/printed.log"
            seen.update(family(os.getpid())[1:])
            time.sleep(1)

    driver = start(command, place)
    wait_for(rng.randint(1, total // 3))
    cluster.remove_node(second, allow_graceful=False)
    print(f"a node killed after {len(stamps(place, '05*'))} runs", flush=True)
    cluster.add_node(**node)
    wait_for(rng.randint(total // 3 + 1, 2 * total // 3))
    driver.kill()
    driver.wait()
    print(f"the driver killed after {len(stamps(place, '05*'))} runs", flush=True)
    driver = start(command, place)
    wait_for(total)
    status = driver.wait()
    cluster.shutdown()
    _, left = psutil.wait_procs(seen, timeout=60)
    starts = [log.read_text(encoding="utf-8").count("dataset toy, ") for log in place.glob("runs/**/sweep.log")]
    finished = total - len(sweep.unfinished())
    print(
        f"{finished} of {total} finished (status {status}); started once {starts.count(1)}, twice {starts.count(2)}, "
    )
    print(f"more often {sum(n > 2 for n in starts)}; of {len(seen)} processes {len(left)} are left: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="a sweep on two Ray nodes instead")
    parser.add_argument("--seeds", type=int, default=15, help="of the sweep, four folds each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="to work in (default: a temporary one)")
    chosen = parser.parse_args()
    folder, rng = (chosen.folder or Path(tempfile.mkdtemp(prefix="kills-"))).resolve(), random.Random(chosen.seed)
    os.environ.pop("LLAFS_DATA", None)  # a series draws its own
    if chosen.sweep:
        sweep_on_two_nodes(folder, chosen.seeds, rng)
    else:
        many_kills(folder, chosen.kills, rng)


if __name__ == "__main__":
    main()

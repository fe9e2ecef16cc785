"""The scripts that make data sets, against a loopback server that holds small stand-ins for the official files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from file_server import Server, contents, make_tar, make_zip, names
from PIL import Image

from llafs_lib.data import official
from llafs_lib.data.official import Archive
from llafs_lib.data.toy import dataset

SCRIPTS = Path(__file__).resolve().parents[2] / "data_scripts"
N_TRAIN, N_VAL = 20, 12

# Runs a script in a process of its own, on a small archive in place of the published one. Ctrl-C must reach it also
# where the tests run in the background, with the signal ignored.
DRIVER = """
import json, runpy, signal, sys
from llafs_lib.data import official
signal.signal(signal.SIGINT, signal.default_int_handler)
official.COCO["val2014"] = official.Archive(**json.loads(sys.argv[1]))
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def nothing_of_the_developers(monkeypatch, in_tmp):
    """Neither read nor write the data that LLAFS_DATA names: `--root` is ./data, in an empty folder."""
    monkeypatch.delenv("LLAFS_DATA", raising=False)


@pytest.fixture
def run(in_tmp, capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Run a script in this process: its exit status and what it printed."""
    monkeypatch.syspath_prepend(SCRIPTS)

    def run(script: str, *arguments: str | Path) -> tuple[int, str, str]:
        status = runpy.run_path(str(SCRIPTS / f"{script}.py"))["main"]([str(a) for a in arguments])
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    "script, options",
    [
        ("download_coco", "release split parts root mirror keep-archives"),
        ("download_pascal", "parts root voc-mirror sbd-mirror keep-archives"),
        ("make_coco_mini", "root annotations mirror keep-archives workers"),
        ("make_toy", "out train val seed force"),
    ],
)
def test_help_names_every_option(run, capsys, script, options):
    with pytest.raises(SystemExit):
        run(script, "--help")
    answer = capsys.readouterr().out
    assert {"help", *options.split()} == set(re.findall(r"^  (?:-h, )?--([a-z-]+)", answer, re.MULTILINE))
    assert script == "make_toy" or f"python data_scripts/{script}.py" in answer


def test_a_script_runs_from_a_checkout_that_is_not_installed(tmp_path):
    for folder in ("data_scripts", "llafs_lib"):
        shutil.copytree(SCRIPTS.parent / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "llafs_lib" / "data" / "toy" / "dataset.py").open("a") as file:
        file.write("print('the library beside the script')")
    command = [sys.executable, tmp_path / "data_scripts" / "make_toy.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout.startswith("the library beside the script\nusage: make_toy.py")


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_what_stops_a_script_is_told_in_one_line(run, monkeypatch, error, status):
    def stop(*_):
        raise error

    monkeypatch.setenv("LLAFS_PROGRESS", "none")
    monkeypatch.setattr(dataset, "draw_scene", stop)
    found, _, complaint = run("make_toy", "--out", "toy")
    assert found == status and re.fullmatch(r"make_toy\.py: .*(stopped|No space).*\n", complaint)


def test_toy_is_made_and_another_one_is_not_replaced(run):
    status, said, _ = run("make_toy", "--out", "toy", "--train", "2", "--val", "1")
    assert status == 0 and "2 training and 1 validation" in said
    status, _, complaint = run("make_toy", "--out", "toy", "--train", "3", "--val", "1")
    assert status == 1 and complaint.startswith("make_toy.py: ") and "--force" in complaint


# -------------------------------------------------------------------------------------- download_coco


def coco_files(split: str, count: int) -> dict[str, bytes]:
    """The members of a split's archive; random bytes, so that none compresses."""
    rng = np.random.default_rng(count)
    return {f"{split}/COCO_{split}_{i:012}.jpg": rng.bytes(20_000 + i) for i in range(count)}


def publish(server: Server, table: dict[str, Archive], key: str, body: bytes, holds: dict[str, int]) -> None:
    """Put a small archive on the server and in the table of official ones."""
    server.files[f"/{table[key].name}"] = body
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    table[key] = replace(table[key], size=len(body), digest=digest, holds=holds)


@pytest.fixture
def coco(server, tmp_path, monkeypatch) -> dict[str, bytes]:
    """A small release 2014 on the server; returns the files it should become, by path under `coco/`."""
    counts = {"train2014": N_TRAIN, "val2014": N_VAL}
    monkeypatch.setattr(official, "COCO_IMAGES", counts)
    monkeypatch.setattr(official, "COCO", dict(official.COCO))
    files = {}
    for split, count in counts.items():
        images = coco_files(split, count)
        archive = make_zip(tmp_path / "made" / f"{split}.zip", images)
        publish(server, official.COCO, split, archive.read_bytes(), {f"{split}/*.jpg": count})
        content = {"images": [{"id": i, "coco_url": f"http://x/{i}.jpg"} for i in range(count)]}
        files |= images | {f"annotations/instances_{split}.json": json.dumps(content).encode()}
    members = {name: body for name, body in files.items() if name.startswith("annotations/")}
    archive = make_zip(tmp_path / "made" / "annotations.zip", members | {"annotations/captions_val2014.json": b"{}"})
    publish(server, official.COCO, "annotations2014", archive.read_bytes(), dict.fromkeys(members, 1))
    return files


def test_coco_ends_in_the_official_layout_and_a_second_run_asks_for_nothing(run, server, coco, in_tmp):
    status, said, _ = run("download_coco", "--mirror", server.url)
    assert status == 0 and contents(in_tmp / "data" / "coco") == coco
    assert f"to download: {server.url}/zips/train2014.zip, " in said and "train2014/*.jpg: 20 files" in said
    assert said.endswith("next: llafs tutorial --dataset coco-20i\n") and len(server.seen) == 3
    status, said, _ = run("download_coco", "--mirror", server.url)
    assert status == 0 and "nothing to do" in said and len(server.seen) == 3


def test_only_what_is_asked_for_is_downloaded(run, server, coco, tmp_path):
    arguments = ("download_coco", "--mirror", f"{server.url}/", "--root", tmp_path / "r")
    assert run(*arguments, "--split", "val", "--parts", "annotations", "--keep-archives")[0] == 0
    assert names(tmp_path / "r" / "coco") == ["annotations/instances_val2014.json", "annotations_trainval2014.zip"]
    status, said, _ = run(*arguments, "--parts", "annotations")  # the kept archive has the other file
    assert status == 0 and len(server.seen) == 1 and "to download" not in said
    files = [f"annotations/instances_{split}.json" for split in ("train2014", "val2014")]
    assert names(tmp_path / "r" / "coco") == files
    _, said, _ = run(*arguments, "--split", "val")
    assert server.seen[1:] == [("/zips/val2014.zip", None)]
    assert f"next: LLAFS_DATA={tmp_path / 'r'} llafs" in said


def test_what_was_unpacked_by_hand_is_recognised_and_completed(run, server, coco, tmp_path):
    for archive in (tmp_path / "made").iterdir():
        with zipfile.ZipFile(archive) as file:
            file.extractall(tmp_path / "data" / "coco")
    status, said, _ = run("download_coco", "--mirror", server.url)
    assert status == 0 and "nothing to do" in said and not server.seen
    lost = tmp_path / "data" / "coco" / "val2014" / "COCO_val2014_000000000003.jpg"
    lost.unlink()
    assert run("download_coco", "--mirror", server.url)[0] == 0
    assert server.seen == [("/zips/val2014.zip", None)]
    assert lost.read_bytes() == coco["val2014/COCO_val2014_000000000003.jpg"]


def test_a_smaller_data_set_is_not_taken_for_the_release_nor_replaced(run, server, coco, tmp_path):
    path = tmp_path / "data" / "coco" / "annotations" / "instances_val2014.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": [{"id": 1, "coco_url": "http://x/1.jpg"}]}))
    status, _, complaint = run("download_coco", "--mirror", server.url)
    assert status == 1 and re.match(r"download_coco.py: .*lists 1 of the 12 images.*another --root", complaint)
    assert not server.seen and names(tmp_path / "data") == ["coco/annotations/instances_val2014.json"]


def test_too_little_room_is_said_before_any_request(run, server, coco, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 500_000))
    status, _, complaint = run("download_coco", "--mirror", server.url)
    assert status == 1 and "needs 1 MB" in complaint and "run again" in complaint and not server.seen


def test_an_archive_that_lacks_images_is_named(run, server, coco, tmp_path):
    short = make_zip(tmp_path / "short.zip", coco_files("val2014", N_VAL - 1))
    publish(server, official.COCO, "val2014", short.read_bytes(), {"val2014/*.jpg": N_VAL})
    status, _, complaint = run("download_coco", "--mirror", server.url, "--split", "val", "--parts", "images")
    assert status == 1 and "still lacks val2014/*.jpg (11 of 12)" in complaint


def start(server: Server, root: Path) -> subprocess.Popen:
    """The real script in a process of its own, on the images of val2014."""
    script = [str(SCRIPTS / "download_coco.py"), "--root", str(root), "--mirror", server.url, "--split", "val"]
    script += ["--parts", "images"]
    command = [sys.executable, "-c", DRIVER, json.dumps(asdict(official.COCO["val2014"])), *script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_bytes(part: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size == count):
        assert time.monotonic() < deadline, "the download did not begin"
        time.sleep(0.005)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_killed_download_goes_on_where_it_was(server, coco, in_tmp):
    folder = in_tmp / "coco"
    part, server.faults["/zips/val2014.zip"] = folder / "val2014.zip.part", [("stall", 50_000)] * 2
    stopped = start(server, in_tmp)
    wait_for_bytes(part, 50_000)
    stopped.send_signal(signal.SIGINT)
    assert stopped.communicate(timeout=60)[1] == "download_coco.py: stopped. Run the same command again to finish.\n"
    assert stopped.returncode == 130
    killed = start(server, in_tmp)
    wait_for_bytes(part, 100_000)
    killed.kill()
    killed.communicate(timeout=60)
    finished = start(server, in_tmp)
    assert finished.communicate(timeout=60)[1] == "" and finished.returncode == 0
    assert [wanted for _, wanted in server.seen] == [None, "bytes=50000-", "bytes=100000-"]
    assert contents(folder) == {name: body for name, body in coco.items() if name.startswith("val2014/")}


# ------------------------------------------------------------------------------------ download_pascal


@pytest.fixture
def pascal(server, tmp_path, monkeypatch) -> dict[str, bytes]:
    """Small VOC and SBD archives on the server; returns the files that are wanted of them."""
    voc, sbd = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
    lists = {f"{voc}/ImageSets/Segmentation/{name}.txt": b"2007_000001\n" for name in ("train", "val", "trainval")}
    wanted = {
        "voc": {f"{voc}/JPEGImages/2007_{i:06}.jpg": bytes([i]) * 999 for i in range(9)}
        | {f"{voc}/SegmentationClass/2007_{i:06}.png": bytes([i]) * 99 for i in range(5)}
        | lists,
        "sbd": {f"{sbd}/cls/2008_{i:06}.mat": bytes([i]) * 99 for i in range(7)}
        | {f"{sbd}/{name}.txt": b"2008_000001\n" for name in ("train", "val")},
    }
    others = {
        "voc": {f"{voc}/Annotations/2007_000001.xml": b"<a/>", f"{voc}/ImageSets/Main/train.txt": b"1\n"},
        "sbd": {f"{sbd}/img/2008_000001.jpg": b"1", f"{sbd}/cls/._2008_000001.mat": b"what macOS adds"},
    }
    monkeypatch.setattr(official, "PASCAL", dict(official.PASCAL))
    for part, mode in (("voc", "w"), ("sbd", "w:gz")):
        holds = {p: n if n == 1 else sum(Path(f).match(p) for f in wanted[part])
                 for p, n in official.PASCAL[part].holds.items()}  # fmt: skip
        archive = make_tar(tmp_path / "made" / part, others[part] | wanted[part], mode)
        publish(server, official.PASCAL, part, archive.read_bytes(), holds)
    return wanted["voc"] | wanted["sbd"]


def test_pascal_ends_in_the_official_layout_and_a_second_run_asks_for_nothing(run, server, pascal, in_tmp):
    arguments = ("download_pascal", "--voc-mirror", server.url, "--sbd-mirror", f"{server.url}/")
    status, said, complaint = run(*arguments)
    assert (status, complaint) == (0, "") and contents(in_tmp / "data" / "pascal") == pascal
    assert "JPEGImages/*.jpg: 9 files" in said and len(server.seen) == 2
    status, said, _ = run(*arguments)
    assert status == 0 and "nothing to do" in said and len(server.seen) == 2


def test_a_part_of_pascal_and_a_server_that_does_not_have_it(run, server, pascal, tmp_path):
    arguments = ("download_pascal", "--parts", "sbd", "--root", tmp_path / "r", "--sbd-mirror")
    status, _, complaint = run(*arguments, f"{server.url}/nowhere")
    assert status == 1 and re.match(r"download_pascal.py: .*/nowhere/benchmark\.tgz answered 404", complaint)
    assert run(*arguments, server.url)[0] == 0
    assert contents(tmp_path / "r" / "pascal") == {name: body for name, body in pascal.items() if "benchmark" in name}


# ------------------------------------------------------------------------------------- make_coco_mini


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


@pytest.fixture
def release(server, tmp_path, monkeypatch) -> dict[str, bytes]:
    """A small release 2017 on the server: 12 images for training, 6 for validation, one object in each."""
    members = {}
    for split, ids in (("train2017", range(1, 13)), ("val2017", range(21, 27))):
        images, objects = [], []
        for i in ids:
            name, image = f"{i:012}.jpg", io.BytesIO()
            Image.new("RGB", (40 + i, 30), (9 * i, 0, 0)).save(image, "JPEG")
            server.files[f"/{split}/{name}"] = image.getvalue()
            url = f"http://images.cocodataset.org/{split}/{name}"
            images.append({"id": i, "file_name": name, "coco_url": url, "height": 30, "width": 40 + i})
            objects.append({"id": 100 + i, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": []})
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "person"}]}
        members[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
    archive = make_zip(tmp_path / "made" / "annotations.zip", members)
    monkeypatch.setattr(official, "COCO", dict(official.COCO))
    publish(server, official.COCO, "annotations2017", archive.read_bytes(), dict.fromkeys(members, 1))
    return members


@pytest.fixture
def mini(release, server, monkeypatch) -> tuple[str | Path, ...]:
    """The command that makes a data set of seven of the images."""
    monkeypatch.setattr(official, "COCO_MINI", {"train2017": [2, 3, 5, 7, 11], "val2017": [23, 26]})
    return ("make_coco_mini", "--mirror", server.url)


def test_mini_holds_the_images_asked_for_and_their_annotations(run, server, mini, in_tmp):
    status, said, complaint = run(*mini)
    assert (status, complaint) == (0, "") and "5 images" in said and said.endswith("--dataset coco-mini\n")
    made = in_tmp / "data" / "coco"
    for split, ids in (("train2017", [2, 3, 5, 7, 11]), ("val2017", [23, 26])):
        content = annotations(made, split)
        assert [i["id"] for i in content["images"]] == [a["image_id"] for a in content["annotations"]] == ids
        assert content["categories"] == [{"id": 1, "name": "person"}]
        assert all((made / split / f"{i:012}.jpg").read_bytes() == server.files[f"/{split}/{i:012}.jpg"] for i in ids)
    assert len(names(made)) == 9 and len(server.seen) == 8
    assert run(*mini)[0] == 0 and len(server.seen) == 8


def test_the_ids_in_the_package_are_those_of_the_files(photographs):
    ids = official.COCO_MINI
    found = {split: [i["id"] for i in annotations(photographs / "coco", split)["images"]] for split in ids}
    assert ids == found and {split: len(some) for split, some in ids.items()} == {"train2017": 300, "val2017": 120}


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_image_alone_is_fetched_again(run, server, mini, in_tmp, damage):
    run(*mini)
    good = in_tmp / "data" / "coco" / "train2017" / "000000000005.jpg"
    whole = good.read_bytes()
    if damage == "cut":
        good.write_bytes(whole[: len(whole) // 2])
    elif damage == "other":
        Image.new("RGB", (32, 16)).save(good)
    else:
        good.unlink()
    server.seen.clear()
    assert run(*mini)[0] == 0
    assert server.seen == [(f"/train2017/{good.name}", None)] and good.read_bytes() == whole


def test_an_image_that_cannot_be_had_is_named_and_no_annotations_promise_it(run, server, mini, in_tmp):
    lost = "/train2017/000000000003.jpg"
    whole = server.files.pop(lost)
    server.files[lost] = whole[:400]  # the server itself has half of it
    status, _, complaint = run(*mini)
    assert status == 1 and f"{lost} is not the expected file: it is not a readable image" in complaint
    assert not (in_tmp / "data" / "coco" / "annotations").exists()
    server.files[lost] = whole
    server.seen.clear()
    assert run(*mini)[0] == 0 and not [path for path, _ in server.seen if "annotations" in path]
    assert not [name for name in names(in_tmp / "data" / "coco") if "official" in name or "part" in name]


def test_the_full_release_is_never_replaced_but_can_be_read(run, server, release, mini, in_tmp):
    folder = in_tmp / "data" / "coco"
    for name, body in release.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    status, _, complaint = run(*mini)
    assert status == 1 and re.search(r"lists 12 images, but not the 5 .*left alone\. Give another --root", complaint)
    assert not server.seen and contents(folder) == release
    assert run(*mini, "--root", in_tmp / "mini", "--annotations", folder / "annotations")[0] == 0
    assert len(server.seen) == 7 and len(names(in_tmp / "mini")) == 9


@pytest.mark.parametrize("text", [None, "", "[]", '{"images": [], "annotations": []}'])
def test_annotations_that_are_not_the_official_ones_are_refused(run, in_tmp, text):
    for split in ("train2017", "val2017"):
        if text is not None:
            (in_tmp / f"instances_{split}.json").write_text(text)
    status, _, complaint = run("make_coco_mini", "--annotations", in_tmp)
    assert status == 1 and "instances_train2017.json" in complaint and complaint.count("\n") == 1

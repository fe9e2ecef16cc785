"""The download scripts against a loopback server that holds small stand-ins for the official files."""

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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_download import Server, make_tar, make_zip, names, serving

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data import official
from llafs_lib.data.coco import CocoSplit

SCRIPTS = Path(__file__).resolve().parents[2] / "data_scripts"
N_TRAIN, N_VAL = 20, 12

# Runs a script on small figures: the published ones are of files too big for a test.
DRIVER = """
import json, runpy, sys
from llafs_lib.data import official
archives, images = json.loads(sys.argv[1])
official.COCO_ARCHIVES.update({name: tuple(figures) for name, figures in archives.items()})
official.COCO_IMAGES.update(images)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No proxy between the tests and the loopback, no bars, no data of the developer's."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLAFS_PROGRESS", "none")
    monkeypatch.delenv("LLAFS_DATA", raising=False)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def run(in_tmp, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a script in this process: its exit status and what it printed."""

    def run(script: str, *arguments: str | Path) -> tuple[int, str, str]:
        status = runpy.run_path(str(SCRIPTS / f"{script}.py"))["main"]([str(a) for a in arguments])
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    "script, options",
    [
        ("download_coco", "release split parts root mirror keep-archives workers"),
        ("download_pascal", "parts root voc-mirror sbd-mirror keep-archives workers"),
        ("make_coco_mini", "root out annotations ids mirror keep-archives workers"),
    ],
)
def test_help_names_every_option_and_shows_an_example(script, options, tmp_path):
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert {"help", *options.split()} <= set(re.findall(r"--([a-z-]+)", answer))
    assert f"python data_scripts/{script}.py" in answer


# -------------------------------------------------------------------------------------- download_coco


def coco_files(split: str, count: int) -> dict[str, bytes]:
    """The members of a split's archive; random bytes, so that none compresses."""
    rng = np.random.default_rng(count)
    return {f"{split}/COCO_{split}_{i:012}.jpg": b"\xff\xd8\xff" + rng.bytes(20_000 + i) for i in range(count)}


@pytest.fixture
def coco(server, tmp_path, monkeypatch) -> dict[str, bytes]:
    """A small release 2014 on the server; returns the files it should become, by path under `coco/`."""
    files = coco_files("train2014", N_TRAIN) | coco_files("val2014", N_VAL)
    counts = {"train2014": N_TRAIN, "val2014": N_VAL}
    for split, count in counts.items():
        content = {"images": [{"id": i, "coco_url": f"http://x/{i}.jpg"} for i in range(count)]}
        files[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
    extra = {"annotations/captions_val2014.json": b"{}"}
    monkeypatch.setattr(official, "COCO_IMAGES", {**official.COCO_IMAGES, **counts})
    monkeypatch.setattr(official, "COCO_ARCHIVES", dict(official.COCO_ARCHIVES))
    for name in ("zips/train2014.zip", "zips/val2014.zip", "annotations/annotations_trainval2014.zip"):
        folder = "annotations" if name.startswith("annotations") else Path(name).stem
        members = {path: body for path, body in (files | extra).items() if path.startswith(f"{folder}/")}
        publish(server, name, make_zip(tmp_path / "made" / Path(name).name, members).read_bytes())
    return files


def publish(server: Server, name: str, body: bytes) -> None:
    server.files[f"/{name}"] = body
    official.COCO_ARCHIVES[name] = (len(body), hashlib.sha256(body).hexdigest())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_coco_ends_in_the_official_layout_and_a_second_run_asks_for_nothing(run, server, coco, in_tmp):
    status, said, _ = run("download_coco", "--mirror", server.url)
    assert status == 0 and contents(in_tmp / "data" / "coco") == coco
    assert f"to download: {server.url}/zips/train2014.zip, " in said and "train2014: 20 images" in said
    assert said.endswith("next: llafs tutorial --dataset coco-20i\n")
    assert len(server.seen) == 3
    status, said, _ = run("download_coco", "--mirror", server.url)
    assert status == 0 and "nothing to do" in said and len(server.seen) == 3


def test_only_what_is_asked_for_is_downloaded(run, server, coco, tmp_path):
    arguments = ("download_coco", "--mirror", f"{server.url}/", "--root", tmp_path / "r")
    assert run(*arguments, "--split", "val", "--parts", "annotations", "--keep-archives")[0] == 0
    assert [path for path, _, _ in server.seen] == ["/annotations/annotations_trainval2014.zip"]
    assert names(tmp_path / "r" / "coco") == ["annotations/instances_val2014.json", "annotations_trainval2014.zip"]
    status, said, _ = run(*arguments, "--parts", "annotations")  # the kept archive has the other file
    assert status == 0 and len(server.seen) == 1 and "to download" not in said
    assert names(tmp_path / "r" / "coco") == [
        "annotations/instances_train2014.json",
        "annotations/instances_val2014.json",
    ]
    _, said, _ = run(*arguments, "--split", "val")
    assert [path for path, _, _ in server.seen][1:] == ["/zips/val2014.zip"]
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
    assert [path for path, _, _ in server.seen] == ["/zips/val2014.zip"]
    assert lost.read_bytes() == coco["val2014/COCO_val2014_000000000003.jpg"]


def test_a_smaller_data_set_is_not_taken_for_the_release_nor_replaced(run, server, coco, tmp_path):
    path = tmp_path / "data" / "coco" / "annotations" / "instances_val2014.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": [{"id": 1, "coco_url": "http://x/1.jpg"}]}))
    status, _, complaint = run("download_coco", "--mirror", server.url)
    assert status == 1 and re.match(r"download_coco: .*lists 1 of the 12 images.*another --root", complaint)
    assert not server.seen and names(tmp_path / "data") == ["coco/annotations/instances_val2014.json"]


def test_too_little_room_is_said_before_any_request(run, server, coco, monkeypatch, in_tmp):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 500_000))
    status, _, complaint = run("download_coco", "--mirror", server.url)
    assert status == 1 and "needs 1 MB" in complaint and "run again" in complaint and not server.seen


@pytest.mark.parametrize("wrong, words", [(b"<html>maintenance</html>", "web page"), (None, "another hash")])
def test_a_wrong_archive_is_named_and_not_kept(run, server, coco, in_tmp, wrong, words):
    right = server.files["/zips/val2014.zip"]
    server.types["/zips/val2014.zip"] = "text/html" if wrong else "application/zip"
    server.files["/zips/val2014.zip"] = wrong or right.replace(b"\xff\xd8\xff", b"\xff\xd8\xfe", 1)
    status, _, complaint = run("download_coco", "--mirror", server.url, "--split", "val")
    assert status == 1 and "val2014.zip" in complaint and words in complaint and "--mirror" in complaint
    server.files["/zips/val2014.zip"] = right
    assert run("download_coco", "--mirror", server.url, "--split", "val")[0] == 0
    assert contents(in_tmp / "data" / "coco") == {name: body for name, body in coco.items() if "val2014" in name}


def test_an_archive_that_lacks_images_is_named(run, server, coco, tmp_path):
    short = make_zip(tmp_path / "short.zip", coco_files("val2014", N_VAL - 1))
    publish(server, "zips/val2014.zip", short.read_bytes())
    status, _, complaint = run("download_coco", "--mirror", server.url, "--split", "val", "--parts", "images")
    assert status == 1 and "still lacks val2014/*.jpg (11 of 12)" in complaint


def start(server: Server, folder: Path) -> subprocess.Popen:
    """The real script in a process of its own, on the images of val2014."""
    figures = json.dumps([official.COCO_ARCHIVES, official.COCO_IMAGES])
    script = [str(SCRIPTS / "download_coco.py"), "--mirror", server.url, "--split", "val", "--parts", "images"]
    command = [sys.executable, "-c", DRIVER, figures, *script]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_bytes(part: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while not (part.is_file() and part.stat().st_size >= count):
        assert time.monotonic() < deadline, "the download did not begin"
        time.sleep(0.005)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_was(server, coco, in_tmp, how):
    server.pause, server.tags["/zips/val2014.zip"] = 0.1, {"ETag": '"1"'}
    folder, size = in_tmp / "data" / "coco", len(server.files["/zips/val2014.zip"])
    process = start(server, in_tmp)
    wait_for_bytes(folder / "val2014.zip.part", 60_000)
    process.send_signal(how)
    _, complaint = process.communicate(timeout=20)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert complaint == "download_coco: stopped. Run the same command again: it goes on from here.\n"
    kept = (folder / "val2014.zip.part").stat().st_size
    assert 60_000 <= kept < size
    server.pause = 0
    process = start(server, in_tmp)
    assert process.communicate(timeout=20)[1] == "" and process.returncode == 0
    assert server.seen == [("/zips/val2014.zip", None, None), ("/zips/val2014.zip", f"bytes={kept}-", '"1"')]
    assert sum(server.sent[1]) == size - kept
    assert contents(folder) == {name: body for name, body in coco.items() if name.startswith("val2014/")}
    assert start(server, in_tmp).wait(20) == 0 and len(server.seen) == 2


# ------------------------------------------------------------------------------------ download_pascal


@pytest.fixture
def pascal(server, tmp_path, monkeypatch) -> dict[str, bytes]:
    """Small VOC and SBD archives on the server; returns the files that are wanted of them."""
    voc, sbd = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
    wanted_voc = {f"{voc}/JPEGImages/2007_{i:06}.jpg": b"\xff\xd8\xff" + bytes([i]) * 999 for i in range(9)}
    wanted_voc |= {f"{voc}/SegmentationClass/2007_{i:06}.png": bytes([i]) * 99 for i in range(5)}
    wanted_voc |= {
        f"{voc}/ImageSets/Segmentation/{name}.txt": b"2007_000001\n" for name in ("train", "val", "trainval")
    }
    wanted_sbd = {f"{sbd}/cls/2008_{i:06}.mat": bytes([i]) * 99 for i in range(7)}
    wanted_sbd |= {f"{sbd}/{name}.txt": b"2008_000001\n" for name in ("train", "val")}
    other_voc = {f"{voc}/Annotations/2007_000001.xml": b"<a/>", f"{voc}/ImageSets/Main/train.txt": b"1\n"}
    other_sbd = {
        f"{sbd}/img/2008_000001.jpg": b"1",
        f"{sbd}/inst/2008_000001.mat": b"1",
        f"{sbd}/cls/._2008_000001.mat": b"1",
    }
    for name, members, mode in (
        ("VOC", other_voc | wanted_voc, "w"),
        ("SBD", other_sbd | wanted_sbd, "w:gz"),
    ):
        archive, _, _ = getattr(official, f"{name}_ARCHIVE")
        body = make_tar(tmp_path / "made" / archive, members, mode).read_bytes()
        server.files[f"/{name.lower()}/{archive}"] = body
        monkeypatch.setattr(official, f"{name}_ARCHIVE", (archive, len(body), f"md5:{hashlib.md5(body).hexdigest()}"))
    for name, count in (("VOC_IMAGES", 9), ("VOC_MASKS", 5), ("SBD_MASKS", 7)):
        monkeypatch.setattr(official, name, count)
    return wanted_voc | wanted_sbd


def test_pascal_ends_in_the_official_layout_and_a_second_run_asks_for_nothing(run, server, pascal, in_tmp):
    arguments = ("download_pascal", "--voc-mirror", f"{server.url}/voc", "--sbd-mirror", f"{server.url}/sbd/")
    status, said, complaint = run(*arguments)
    assert (status, complaint) == (0, "") and contents(in_tmp / "data" / "pascal") == pascal
    assert "JPEGImages/*.jpg: 9 files" in said and len(server.seen) == 2
    status, said, _ = run(*arguments)
    assert status == 0 and "nothing to do" in said and len(server.seen) == 2


def test_a_part_of_pascal_and_a_server_that_does_not_have_it(run, server, pascal, tmp_path):
    arguments = ("download_pascal", "--parts", "sbd", "--root", tmp_path / "r", "--sbd-mirror")
    status, _, complaint = run(*arguments, f"{server.url}/nowhere")
    assert status == 1 and re.match(r"download_pascal: .*/nowhere/benchmark\.tgz answered 404", complaint)
    assert run(*arguments, f"{server.url}/sbd")[0] == 0
    assert contents(tmp_path / "r" / "pascal") == {name: body for name, body in pascal.items() if "benchmark" in name}


# ------------------------------------------------------------------------------------- make_coco_mini


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


@pytest.fixture
def release(server, photographs, tmp_path, monkeypatch) -> Path:
    """On the server, the annotation archive of a release that has more images than coco-mini, and its images."""
    members = {}
    for split in ("train2017", "val2017"):
        content = annotations(photographs / "coco", split)
        for number, at in enumerate((0, 7, len(content["images"]))):
            name = f"{number:012}.jpg"  # no such image exists
            url = f"http://images.cocodataset.org/{split}/{name}"
            strange = {"id": number, "file_name": name, "coco_url": url, "height": 9, "width": 9}
            content["images"].insert(at, strange)
            mask = {"id": -number, "image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": []}
            content["annotations"].insert(at, mask)
        members[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
        for path in (photographs / "coco" / split).iterdir():
            server.files[f"/{split}/{path.name}"] = path.read_bytes()
    monkeypatch.setattr(official, "COCO_ARCHIVES", dict(official.COCO_ARCHIVES))
    name = "annotations/annotations_trainval2017.zip"
    publish(server, name, make_zip(tmp_path / "made" / "annotations.zip", members).read_bytes())
    return photographs / "coco"


@pytest.fixture
def dozen(release, tmp_path) -> Path:
    """A file that names twelve of the images."""
    ids = {
        s: [info["id"] for info in annotations(release, s)["images"]][:n] for s, n in (("train2017", 8), ("val2017", 4))
    }
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(ids))
    return path


def test_coco_mini_is_the_same_wherever_it_is_made(run, server, release, in_tmp):
    status, said, complaint = run("make_coco_mini", "--mirror", server.url)
    assert (status, complaint) == (0, "") and "300 images" in said and "120 images" in said
    made = in_tmp / "data" / "coco"
    for split in ("train2017", "val2017"):
        assert annotations(made, split) == annotations(release, split)
        assert contents(made / split) == contents(release / split)
    assert names(made)[0].startswith("annotations/") and len(names(made)) == 422
    ours, theirs = (
        CocoSplit(root / "val2017", root / "annotations" / "instances_val2017.json", COCO_CLASSES)
        for root in (made, release)
    )
    assert ours.image_ids == theirs.image_ids and len(ours) == 120
    some = ours.image_ids[3]
    assert np.array_equal(ours.image(some), theirs.image(some))
    assert np.array_equal(ours.label_map(some), theirs.label_map(some))
    assert len(server.seen) == 421
    assert run("make_coco_mini", "--mirror", server.url)[0] == 0 and len(server.seen) == 421


def test_the_ids_in_the_package_are_those_of_the_files(release):
    ids = json.loads((Path(official.__file__).parent / "coco_mini_ids.json").read_text())
    assert ids == {s: [info["id"] for info in annotations(release, s)["images"]] for s in ("train2017", "val2017")}


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_image_alone_is_fetched_again(run, server, dozen, in_tmp, damage):
    arguments = ("make_coco_mini", "--mirror", server.url, "--ids", dozen)
    assert run(*arguments)[0] == 0
    good = min((in_tmp / "data" / "coco" / "train2017").iterdir())
    whole = good.read_bytes()
    if damage == "cut":
        good.write_bytes(whole[: len(whole) // 2])
    elif damage == "other":
        Image.new("RGB", (32, 16)).save(good)
    else:
        good.unlink()
    server.seen.clear()
    assert run(*arguments)[0] == 0
    assert [path for path, _, _ in server.seen] == [f"/train2017/{good.name}"] and good.read_bytes() == whole


def test_images_that_cannot_be_had_are_named_and_no_annotations_promise_them(run, server, dozen, in_tmp):
    arguments = ("make_coco_mini", "--mirror", server.url, "--ids", dozen)
    ids = json.loads(dozen.read_text())
    cut, gone = f"/train2017/{ids['train2017'][1]:012}.jpg", f"/val2017/{ids['val2017'][0]:012}.jpg"
    whole = {path: server.files.pop(path) for path in (cut, gone)}
    server.files[cut] = whole[cut][:5_000]  # the server itself has half of it
    status, _, complaint = run(*arguments)
    assert status == 1 and "2 of 12 files" in complaint and Path(cut).name in complaint and "readable" in complaint
    assert not (in_tmp / "data" / "coco" / "annotations").exists()
    server.files |= whole
    server.seen.clear()
    assert run(*arguments)[0] == 0  # neither the other images nor the annotation archive again
    assert sorted(path for path, _, _ in server.seen) == [cut, gone]
    assert not [name for name in names(in_tmp / "data" / "coco") if "official" in name]


def test_the_full_release_is_never_replaced_but_can_be_read(run, server, release, dozen, in_tmp):
    folder = in_tmp / "data" / "coco" / "annotations"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(server.files["/annotations/annotations_trainval2017.zip"])) as file:
        file.extractall(folder.parent)
    before = contents(folder)
    arguments = ("make_coco_mini", "--mirror", server.url, "--ids", dozen)
    status, _, complaint = run(*arguments)
    assert status == 1 and re.search(r"lists 303 images.*left alone\. Give `--out ANOTHER/coco`", complaint)
    assert not server.seen and contents(folder) == before
    assert run(*arguments, "--out", in_tmp / "mini" / "coco")[0] == 0
    assert run(*arguments, "--root", in_tmp / "third", "--annotations", folder)[0] == 0
    assert len(server.seen) == 24 and not [path for path, _, _ in server.seen if "annotations" in path]
    assert contents(in_tmp / "mini") == contents(in_tmp / "third")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train2014": [9]}', '{"val2017": []}', '{"val2017": ["x"]}', "[1]"])
def test_a_list_of_ids_of_another_form_is_refused(run, in_tmp, text):
    (in_tmp / "ids.json").write_text(text)
    status, _, complaint = run("make_coco_mini", "--ids", "ids.json")
    assert status == 1 and "ids.json" in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize("text", [None, "", "[]", '{"images": [], "annotations": []}'])
def test_annotations_that_are_not_the_official_ones_are_refused(run, in_tmp, text):
    for split in ("train2017", "val2017"):
        if text is not None:
            (in_tmp / f"instances_{split}.json").write_text(text)
    status, _, complaint = run("make_coco_mini", "--annotations", in_tmp)
    assert status == 1 and "instances_train2017.json" in complaint and complaint.count("\n") == 1

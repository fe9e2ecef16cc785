"""`llafs segment` and `llafs bank` on a data set of one's own: three annotated shapes, photographs of a fourth."""

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from llafs_lib import bank_folder, pipeline
from llafs_lib.tools.cli import main

WIDTH, HEIGHT = 96, 72
CLASSES = ("disc", "box", "salt, pepper")
SMALL = ("--backbone", "small")  # ships with the library


def draw(shape, x, y, size=18):
    """An image [H, W, 3] with one shape, and the shape's outline [n, 2]."""
    turns = {"disc": 24, "box": 4, "salt, pepper": 3, "okapi": 8}[shape]
    angles = np.arange(turns) * 2 * np.pi / turns + np.pi / 4
    outline = np.stack([x + size * np.cos(angles), y + size * np.sin(angles)], 1).round().astype(np.int32)
    image = np.random.default_rng(x).integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    cv2.fillPoly(image, [outline], (210, 60, 40))
    return image, outline


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with annotated images, photographs and a bank."""
    root = tmp_path_factory.mktemp("own images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("LLAFS_PROGRESS", "none")
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7 + i, "name": c} for i, c in enumerate(CLASSES)],
        }
        for i in range(9):
            image, outline = draw(CLASSES[i % 3], 30 + 4 * i, 30 + i)
            Path("images").mkdir(exist_ok=True)
            Image.fromarray(image).save(f"images/{i}.png")
            content["images"].append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
            about = {"id": i + 1, "image_id": i, "category_id": 7 + i % 3, "iscrowd": 0}
            content["annotations"].append({**about, "segmentation": [outline.ravel().tolist()]})
        Path("annotations.json").write_text(json.dumps(content))
        for name, x in (("a.jpg", 30), ("b.jpg", 50), ("sub/a.jpg", 60)):
            path = root / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw("okapi", x, 36)[0]).save(path)
        assert main(["bank", "images/", "annotations.json", "-o", "bank", *SMALL]) == 0
        yield root


@pytest.fixture
def run(place, capsys, monkeypatch):
    """(arguments) → exit status, stdout, stderr; what was written is taken away afterwards."""
    before = set(place.rglob("*"))
    monkeypatch.setenv("LLAFS_PROGRESS", "lines")

    def run(command, *more):
        capsys.readouterr()
        status = main([*command.split(), *more])
        said = capsys.readouterr()
        return status, said.out, said.err

    yield run
    for path in sorted(set(place.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture
def nothing_is_done(monkeypatch):
    for name in ("from_coco", "from_run"):
        monkeypatch.setattr(pipeline.LLaFS, name, lambda *a, **k: pytest.fail("work was begun"))


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


# --- what is written -------------------------------------------------------------------------------------------------


def test_one_image_and_one_class_make_a_mask(run):
    status, out, _ = run("segment photos/a.jpg okapi --run bank --related disc=.9,box=.6 -o okapi.png")
    assert status == 0 and out.startswith("okapi looks like: disc 0.90, box 0.60  [given]")
    assert "okapi: expected IoU: " in out and out.endswith("written: okapi.png\n")
    with Image.open("okapi.png") as mask:
        assert mask.size == (WIDTH, HEIGHT) and set(np.unique(mask)) == {0, 255}


def test_without_a_name_the_file_is_named_after_image_and_class(run):
    assert run("segment photos/a.jpg okapi --run bank --related disc")[1].endswith("written: a-okapi.png\n")
    assert run("segment photos/a.jpg disc,box,Disc --run bank")[1].endswith(
        f"written: {Path('segmented/disc/a.png')}, {Path('segmented/box/a.png')}\n"
    )
    assert run("segment photos/a.jpg box --run bank --format coco")[1].endswith("written: a-box.json\n")
    assert files("segmented") == ["box/a.png", "disc/a.png"]
    assert COCO("a-box.json").getImgIds() == [1] and Path("a-okapi.png").is_file()


def test_many_images_keep_their_folders_and_are_ranked(run):
    status, out, err = run("segment photos/**/*.jpg photos/a.jpg okapi --run bank --related disc,box -o masks/")
    assert status == 0 and not err.strip() and files("masks") == ["a.png", "b.png", "sub/a.png"]
    first = r"okapi, the images that most likely show it first(?: \(expected AUC: [\d.]+; .*\))?:\n"
    found = re.search(rf"{first}((  .*\n)+)", out)
    lines = [line.split() for line in found[1].splitlines()]
    assert sorted(Path(path).as_posix() for _, path in lines) == ["photos/a.jpg", "photos/b.jpg", "photos/sub/a.jpg"]
    assert [float(sure) for sure, _ in lines] == sorted((float(sure) for sure, _ in lines), reverse=True)
    assert out.endswith(f"written: 3 images as mask in {Path('masks')}\n")


@pytest.mark.skipif(os.name != "posix", reason="only there a name is any bytes")
def test_names_that_are_no_utf_8_are_read_and_printed(run):
    shutil.copy("photos/a.jpg", b"photos/\xff.jpg")
    status, out, _ = run("segment photos box --run bank -o found.json --json")
    assert status == 0 and len({json.loads(line)["image"] for line in out.splitlines()}) == 3
    assert len(COCO("found.json").dataset["images"]) == 3
    assert run("segment photos box --run bank -o masks/")[0] == 0 and files("masks") == ["_.png", "a.png", "b.png"]


def test_a_folder_means_the_images_in_it(run):
    (Path("photos") / "notes.txt").write_text("no image")
    assert run("segment photos disc --run bank -o masks/")[0] == 0
    assert files("masks") == ["a.png", "b.png"]


@pytest.mark.parametrize("path", ["found.json", "masks/"])
def test_what_is_written_can_be_annotations(run, path):
    assert run("segment photos/a.jpg photos/b.jpg disc,box --run bank -o", path)[0] == 0
    assert re.match("[34] supports of 2 classes: ", run(f"bank photos {path} -o again", *SMALL)[1])
    once = run("segment photos/a.jpg box --run again -o box.png")
    assert once[0] == 0 and np.array(Image.open("box.png")).any()


def test_files_that_are_no_images_may_lie_beside_the_images(run):
    assert run("segment photos okapi --run bank --related box -o photos --format yolo")[0] == 0
    assert run("segment photos okapi --run bank --related box -o photos/x.json")[0] == 0
    assert run("segment photos/a.jpg okapi --run bank --related box -o photos/x.png")[0] == 0


def test_a_folder_may_be_called_as_the_class(run):
    for _ in range(2):
        assert run("segment photos box --run bank -o box")[0] == 0
    assert files("box") == ["a.png", "b.png"]


def test_a_ranking_has_at_most_ten_lines(run):
    for i in range(12):
        shutil.copy("photos/a.jpg", f"photos/c{i}.jpg")
    for classes, lines in (("disc", 10), ("disc,box", 10), ('disc,box,"salt, pepper"', 9)):
        out = run("segment photos", classes, "--run", "bank", "-o", f"out-{lines}/")[1]
        assert len(re.findall(r"^  .*photos", out, re.MULTILINE)) == lines


def test_supports_of_ones_own_need_no_bank_before(run):
    command = "segment photos/a.jpg okapi --supports annotations.json --images images --bank built --related box"
    assert run(command, "-o", "one.png", *SMALL)[0] == 0 and Path("built/bank.json").is_file()
    state = Path("built/bank.json").stat().st_mtime_ns
    assert run(command, "-o", "two.png", *SMALL)[0] == 0 and Path("built/bank.json").stat().st_mtime_ns == state
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


@pytest.mark.parametrize(
    ("format", "written"),
    [
        ("mask", ["a.png", "b.png", "sub/a.png"]),
        ("labelmap", ["a.png", "b.png", "classes.json", "sub/a.png"]),
        ("overlay", ["a.jpg", "b.jpg", "sub/a.jpg"]),
        ("sheet", ["sheet.png"]),
        ("figure", ["a.png", "b.png", "sub/a.png"]),
        ("coco", ["predictions.json", "predictions.results.json"]),
        ("yolo", ["a.txt", "b.txt", "classes.txt", "sub/a.txt"]),
    ],
)
def test_every_format_goes_into_a_folder(run, format, written):
    for _ in range(2):  # the second time replaces the files
        assert run(f"segment photos/a.jpg photos/b.jpg photos/sub box --run bank -o out/ --format {format}")[0] == 0
        assert files("out") == written


def test_a_name_with_a_comma_and_dollars(run):
    shutil.copy("photos/a.jpg", "photos/$5^ or $10.jpg")
    for format in ("sheet", "figure"):
        command = f"segment photos/*10.jpg --run bank -o out/ --format {format}"
        assert run(command, '"salt, pepper"')[0] == 0 and len(files("out")) == 1
        shutil.rmtree("out")
    status, out, _ = run("segment photos/a.jpg okapi --run bank -o x.png --related", '"salt, pepper"=.5,box')
    assert status == 0 and "box 1.00, salt, pepper 0.50" in out


# --- scripts, failures, interruptions --------------------------------------------------------------------------------


def test_json_is_all_that_stdout_has(run):
    Path("photos/broken.jpg").write_text("no image")
    status, out, err = run("segment photos disc,box,Disc --run bank -o found.json --json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and len(lines) == 5 and "1 of 3 images failed" in err
    done = [line for line in lines if "error" not in line]
    assert [(Path(d["image"]).name, d["class"]) for d in done] == [
        (name, c) for name in ("a.jpg", "b.jpg") for c in ("disc", "box")
    ]
    assert all(d["file"] == "found.json" and 0 <= d["share"] <= 1 and d["related"] for d in done)
    assert "Disc" not in out, "a class is looked for once, as it was spelled first"
    (failed,) = [line for line in lines if "error" in line]
    assert Path(failed["image"]).name == "broken.jpg" and "broken.jpg" in failed["error"]
    assert [i["file_name"] for i in COCO("found.json").dataset["images"]] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("images", "status", "message"), [("photos", 1, "1 of 3 images failed"), ("photos/x.png", 2, "x")]
)
def test_a_broken_image_ends_nothing_but_is_counted(run, images, status, message):
    Path("photos/x.png").write_bytes(b"\x89PNG\r\n")
    found, _, err = run(f"segment {images} box --run bank -o masks/")
    assert found == status and message in err and "photos" in err and "x.png" in err and "Traceback" not in err
    if status == 1:
        assert files("masks") == ["a.png", "b.png"]


def test_ctrl_c_keeps_what_was_written(run, monkeypatch):
    answer, asked = pipeline.LLaFS._answer, []

    def interrupted(*given):
        asked.append(given)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return answer(*given)

    monkeypatch.setattr(pipeline.LLaFS, "_answer", interrupted)
    for path, written in (("masks/", ["a.png"]), ("coco/", ["predictions.json", "predictions.results.json"])):
        asked.clear()
        status, _, err = run(f"segment photos box --run bank --format {path.strip('s/')} -o {path}")
        assert status == 130 and len(err.strip().splitlines()) == 1 and files(path) == written


def test_a_low_confidence_makes_an_empty_mask(run):
    status, out, _ = run("segment photos/a.jpg box --run bank -o x.png --min-confidence 5")
    assert status == 0 and "taken as absent" in out and not np.array(Image.open("x.png")).any()


# --- what is refused before any work ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("photos/a.jpg okapi -o x.npy", "x.npy: a result is not written as .npy"),
        ("photos/a.jpg okapi -o x.txt", "for a .txt, choose format yolo"),
        ("photos/a.jpg okapi -o x.jpg --format mask", "format mask is written as .png"),
        ("photos/a.jpg okapi -o x.png --format masks", "Did you mean 'mask'"),
        ("photos okapi -o x.png", "2 images do not fit into the one mask x.png"),
        ("photos/a.jpg a,b -o x.png --format mask", "2 classes do not fit into the one mask x.png"),
        ("photos/a.jpg okapi -o annotations.json/", "annotations.json is a file, not a folder"),
        ("photos/a.jpg okapi -o photos/a.jpg", "would overwrite the input photos/a.jpg"),
        ("images/1.png okapi -o images/", "would overwrite the input images/1.png"),
        (
            "photos/a.jpg okapi --supports annotations.json -o annotations.json",
            "would overwrite the input annotations.json",
        ),
        ("photos/a.jpg okapi --supports annotations.json -o images", "images holds the annotated images"),
        ("photos okapi -o photos --run bank --related box", "photos is the folder of the images.*taken for images"),
        ("photos/ okapi -o photos/s.png --format sheet --run bank", "photos is the folder of the images"),
        ("photos/a.jpg okapi -o bank/bank.json --run bank", "bank belongs to the bank or run bank: choose another"),
        ("photos/a.jpg okapi -o bank/masks/ --run bank", "bank.masks belongs to the bank or run bank"),
        ("photos/a.jpg okapi -o bank --bank bank --supports annotations.json", "bank belongs to the bank or run bank"),
        ("photos/a.jpg okapi --supports annotations.json --run bank", "--supports and --run do not go together"),
        ("photos/a.jpg okapi --supports annotations.json --method hsnet", "--supports and --method do not go together"),
        ("photos/a.jpg okapi --images images", "--images goes with --supports"),
        ("photos/a.jpg okapi --bank bank", "--bank goes with --supports"),
        (
            "photos/a.jpg okapi --supports annotations.json --related disk",
            "'disk' is not annotated here.*Did you mean 'disc'",
        ),
        ("photos/a.jpg okapi --supports annotations.json --related box=high", "'box=high' is no number"),
        ("photos/a.jpg okapi --supports nothing.json --related box", "nothing.json do not exist"),
        ("photos/a.jpg okapi,lion --related box", "--related goes with one class"),
        ("photos/a.jpg , --run bank", "no class is named"),
        ("photos/a.jpg photos/b.jpg", "photos/b.jpg is a file or folder, but the last word names the class"),
        ("photos/a.jpg photos/", "photos/ is a file or folder, but the last word names the class"),
        ("photos/none.jpg okapi", "photos/none.jpg does not exist"),
        ("photos/*.tif okapi", "nothing that fits photos/.*tif is an image"),
        ("bank/added okapi", "bank/added"),
        ("photos/a.jpg okapi --shots 0", "shots must be a whole number of at least 1"),
        ("photos/a.jpg okapi --min-confidence nan", "--min-confidence must be a number"),
        ("photos/a.jpg okapi --min-confidence high", "invalid float value: 'high'"),
        ("photos/a.jpg okapi --llm-mode refresh", "llm_mode 'refresh' asks a model anew"),
    ],
)
def test_a_mistake_is_refused_before_any_work(run, place, nothing_is_done, arguments, message):
    before = files(place)
    status, out, err = run(f"segment {arguments}")
    assert status == 2 and not out and re.match(f"llafs: .*{message}", err) and len(err.splitlines()) == 1
    assert files(place) == before


def test_a_word_that_nobody_answered_names_both_ways_on(run):
    status, _, err = run("segment photos/a.jpg", "disk", *"--run bank -o x.png".split())
    assert status == 2 and "no recorded answer says what looks like it. Did you mean 'disc'?" in err
    assert "--related disc,box" in err and "--llm MODEL" in err and not Path("x.png").exists()


def test_a_word_among_others_that_nobody_answered_is_to_be_asked_for_alone(run):
    _, _, err = run("segment photos/a.jpg box,disk --run bank -o x.png")
    assert "Ask for it alone and name annotated look-alikes (--related disc,box)" in err
    assert run("segment photos/a.jpg disk --run bank -o x.png --related disc,box")[0] == 0


# --- bank ------------------------------------------------------------------------------------------------------------


def test_a_bank_says_what_it_holds_and_can_be_moved(run, place):
    status, out, _ = run("bank images annotations.json --bank made", *SMALL)
    assert status == 0 and out.startswith("9 supports of 3 classes: disc, box, salt, pepper\nwhat to expect:\n")
    os.makedirs("elsewhere")
    shutil.move("made", "elsewhere/renamed")
    assert run("segment photos/a.jpg okapi --run elsewhere/renamed --related box -o x.png")[0] == 0


@pytest.mark.slow
def test_a_bank_made_by_ray_is_the_same(run):
    pytest.importorskip("ray", reason="needs Ray: pip install 'llafs-notebooks[cluster]'")
    assert run("bank images annotations.json -o shared --address local", *SMALL)[0] == 0
    for column in Path("bank/support_bank").glob("*.npy"):
        np.testing.assert_allclose(np.load(Path("shared/support_bank") / column.name), np.load(column), atol=1e-6)
    assert list(Path("bank/support_bank").glob("*.npy"))


def test_a_stale_bank_is_renewed_by_the_command_that_its_error_names(run, monkeypatch):
    shutil.copy("annotations.json", "mine.json")
    own = ["--supports", "mine.json", "--images", "images", *SMALL]
    assert run("segment photos/a.jpg okapi --related box -o x.png --bank mine", *own)[0] == 0
    content = json.loads(Path("mine.json").read_text())
    content["annotations"].pop()
    Path("mine.json").write_text(json.dumps(content))
    status, _, err = run("segment photos/a.jpg okapi --related box -o x.png --bank mine", *own)
    assert status == 2 and "stale" in err and "`llafs bank IMAGES ANNOTATIONS -o mine`" in err
    assert run("bank images mine.json -o mine", *SMALL)[1].startswith("8 supports of 3 classes")
    assert run("segment photos/a.jpg okapi --related box -o x.png --bank mine", *own)[0] == 0


def test_what_a_bank_leaves_out_is_said(run):
    content = json.loads(Path("annotations.json").read_text())
    content["images"][3]["file_name"] = "lost.png"
    Path("mine.json").write_text(json.dumps(content))
    status, out, _ = run("bank images mine.json -o left-out", *SMALL)
    assert status == 0 and "note: 1 × an image that is missing, the first in image 3 (lost.png)\n" in out
    assert "\n8 supports of 3 classes" in out


def test_a_bank_stays_usable_while_it_is_renewed_from_what_it_was_made_from(run, monkeypatch):
    shutil.copytree("bank", "renewed")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bank_folder, "calibrate", killed)
        assert run("bank images annotations.json -o renewed", *SMALL)[0] == 130
    assert run("segment photos/a.jpg okapi --run renewed --related box -o x.png")[0] == 0


def test_a_bank_whose_settings_are_lost_is_named(run):
    shutil.copytree("bank", "damaged")
    about = json.loads(Path("damaged/bank.json").read_text(encoding="utf-8"))
    Path("damaged/bank.json").write_text(json.dumps({**about, "settings": {}}), encoding="utf-8")
    status, _, err = run("segment photos/a.jpg okapi --run damaged --related box -o x.png")
    assert status == 2 and "bank.json is not the file of a bank, or is damaged" in err


def test_a_corrected_mask_is_kept_listed_and_removed(run):
    shutil.copytree("bank", "corrected")
    Image.fromarray(cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [draw("okapi", 30, 36)[1]], 255)).save("m.png")
    assert run("bank --run corrected --list") == (0, "nothing was added\n", "")
    assert run("bank --run corrected --add photos/a.jpg m.png okapi") == (0, "added under number 1\n", "")
    assert run("bank --run corrected --list")[1] == f"1: okapi, from {Path('photos/a.jpg')}\n"
    out = run("segment photos/b.jpg okapi --run corrected")[1]  # nobody says what looks like one
    assert out.startswith("okapi looks like: nothing  [its corrections alone]")
    status, out, _ = run("segment photos/b.jpg okapi --run corrected -o x.png --related box")
    assert status == 0 and "1 × okapi" in out
    assert run("segment photos/b.jpg okapi --run corrected -o x.png")[0] == 0, "it is its own support now"
    assert (
        run("bank --run corrected --remove 1")[0] == 0
        and run("bank --run corrected --list")[1] == "nothing was added\n"
    )
    status, _, err = run("bank --run corrected --remove 1")
    assert status == 2 and "no added support has the number 1" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "say what to do: `llafs bank IMAGES ANNOTATIONS -o DIR` makes a bank"),
        ("images annotations.json", "one of the three is missing"),
        ("images -o made", "one of the three is missing"),
        ("--run bank", "say what to do"),
        ("--list", "say what to do"),
        ("--run bank --list --remove 1", "not allowed with argument"),
        ("--run nowhere --list", "nowhere is not a run folder.*`llafs bank`"),
        ("images annotations.json -o annotations.json", "annotations.json is a file, not a folder"),
        ("images annotations.json -o photos", "photos exists and is no bank.*another folder"),
        ("images annotations.json -o photos --address auto", "photos exists and is no bank.*another folder"),
        ("images annotations.json -o made --address auto --retries -1", "retries must be a whole number of at least 0"),
        ("nowhere annotations.json -o made", "nowhere does not exist"),
        ("images nothing.json -o made", "nothing.json do not exist"),
        ("--run bank --add photos/a.jpg nothing.png okapi", "nothing.png does not exist"),
    ],
)
def test_a_mistake_about_banks_is_one_line(run, place, arguments, message):
    before = files(place)
    status, out, err = run(f"bank {arguments}")
    assert status == 2 and not out and re.match(f"llafs: .*{message}", err) and len(err.splitlines()) == 1
    assert files(place) == before

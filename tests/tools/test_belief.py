"""Nothing damaged is believed: artifact × damage × who reads it. Each cell is a sentence, a rebuild, or no effect."""

import contextlib
import hashlib
import json
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from damage import DAMAGES, restored

from llafs_lib import LLaFS
from llafs_lib.artifacts import MADE_BY, NOTEBOOKS, file_hash, number_of, write_json
from llafs_lib.data import folds
from llafs_lib.data.splits import SupportReader
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import EVERYTHING, Arm
from llafs_lib.language.relations import by_text, save_related
from llafs_lib.retrieval.bank import COLUMNS, build_bank, described_by
from llafs_lib.settings import Settings
from llafs_lib.tools import tutorial
from llafs_lib.tools.sweep import Sweep, merge
from llafs_lib.tools.tutorial import Step, notebooks, run_tutorial
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.pspnet import base_network
from llafs_lib.vision.segmenter import HSNetSegmenter

SIZE = 65
OURS = Settings(budget="tiny", queries=20, runs="runs/sweep/seed0")
OTHERS = {"fold": replace(OURS, fold=1), "seed": replace(OURS, seed=1, runs="runs/sweep/seed1")}
READ = sorted({name for reads, _ in NOTEBOOKS.values() for name in reads})
MERGED = ["results.json", "queries.novel.jsonl", "examples.png"]
BANK = ["support_bank/foreground.npy", "support_bank/image_ids.npy", "support_bank/index.json"]
ARTIFACTS = [*READ, *MERGED, *BANK, *(f"{name}.manifest.json" for name in (*READ, "results.json", "examples.png"))]
ARTIFACTS += [f"notebooks/{MADE_BY[name]}.stamp.json" for name in ("folds.json", "hsnet.safetensors", "results.json")]


def made_run(settings):
    """What notebooks 01 to 05 leave, with untrained models of the settings' seed."""
    run, data = settings.run, folds.open_dataset("toy")
    fold = folds.make_fold(data, settings.fold)
    folds.save_fold(run, fold)
    made_with = settings.model | {"data": fold.digest}
    torch.manual_seed(settings.seed)
    segmenter = HSNetSegmenter(HSNet(Backbone("small").freeze()), SIZE)
    with run.writing("hsnet.safetensors", made_with) as path:
        segmenter.model.save(path, size=SIZE)
    with run.writing("repri.safetensors", made_with) as path:
        base_network(Backbone("small"), 1 + len(fold.base), whole=True).save(path, size=SIZE)
    with run.writing("vision.json", made_with) as path:
        write_json(path, {})
    save_related(run, {name: by_text(name, fold.base) for name in fold.novel}, fold.index)
    shown = {i: tuple(c for c in fold.base if i in fold.train_images[c]) for i in data.train.image_ids[:12]}
    shown, read = {i: classes for i, classes in shown.items() if classes}, SupportReader(data.train)
    made_from = {"data": fold.digest, "fold": fold.index, **described_by(segmenter.model.backbone, SIZE)}
    path = run.path / "support_bank"
    build_bank(path, shown, fold.base, lambda i: read.with_masks(i, shown[i]), segmenter.describe, made_from)
    run.record("support_bank", made_with)
    with run.writing("calibration.json", made_with | {"shots": 5}) as path:
        how = {"threshold": 0.5 + 0.1 * settings.seed, "plain": True, "sharpness": 8.0}
        write_json(path, {"prototypes": how, "auc": {}})
    made_results(settings, made_with)
    for book in notebooks(names=NOTEBOOKS):
        Step(book, settings).run()


def made_results(settings, made_with):
    run = settings.run
    query = {"class_name": f"class{settings.fold}", "image_id": 1, "pixels": 100, "truth": 20}
    arms = [EVERYTHING, *(Arm("HSNet", policy, 5) for policy in ("true", "llm", "random"))]
    arms.append(Arm("HSNet", "random", 5, draw=1))
    counts = {a.name: [9 + n + settings.seed, 30, 50, 91] for n, a in enumerate(arms)}
    header = {"key": "", "arms": {a.name: asdict(a) for a in arms}}
    lines = [header, query | {"answers": counts, "at_400": counts, "supports": {}}]
    log = run.path / "queries.novel.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"shots": [5], "backbone": "small", "budget": "tiny", "absent": {}, "seconds": {"all": 1.0}}
    results["log"] = {"file": log.name, "sha256": file_hash(log)}
    for name in NOTEBOOKS["05_full_evaluation"][1][1:]:
        with run.writing(name, made_with) as path:
            write_json(path, results) if name == "results.json" else path.write_bytes(
                b"a picture" * (settings.seed + 1)
            )


def loads(source, output, parameters, log=None):
    """Run those cells of a notebook that read artifacts, in this process, and keep a digest of what they read."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("{}")
    if source.stem[:2] in ("01", "06") or "04_" not in source.stem and "05_" not in source.stem:
        return
    cells = ["".join(c["source"]) for c in json.loads(source.read_text())["cells"] if c["cell_type"] == "code"]
    first = next(n for n, cell in enumerate(cells) if "settings_from(globals())" in cell)
    space = dict(parameters)
    exec("\n".join(line for line in cells[first - 2].split("\n") if "set_num_threads" not in line), space)
    exec("settings_from_ = settings_from\nsettings = settings_from(globals())\n" + cells[first], space)
    for cell in cells[first + 1 :]:
        for line in re.findall(r"^(?:calibration|repri) = .*run\.require.*$", cell, re.MULTILINE):
            exec(line, space)
    READ_BY[source.stem] = digest_of(space)


READ_BY: dict[str, str] = {}


def digest_of(space):
    """What a notebook has read, as a hash."""
    found = [space["classes"].digest, repr(space["related"]), str(space.get("calibration"))]
    for name in ("hsnet", "segmenter", "repri"):
        if name in space:
            found += [str(v.sum().item()) for v in space[name].model.state_dict().values()]
    if "bank" in space:
        found += [repr(space["bank"].classes), *(getattr(space["bank"], c).tobytes().hex() for c in COLUMNS)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Our run and two others: of another fold, and of another seed."""
    root = tmp_path_factory.mktemp("belief")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(folds, "make_toy", lambda out: make_toy(out, n_train=40, n_val=20))
        patch.setattr(tutorial, "execute", loads)
        patch.setattr(tutorial, "in_root", contextlib.nullcontext)  # the scenes are drawn here, not in the checkout
        patch.setattr("torch.set_num_threads", lambda n: None)
        for settings in (OURS, *OTHERS.values()):
            made_run(settings)
        yield OURS.run


# --- who reads -------------------------------------------------------------------------------------------------------


def from_run(method):
    def consume():
        model = LLaFS.from_run(OURS.run.path, method=method)
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
        found = model.segment(image, model.bank.classes[0], shots=1)
        return hashlib.sha256(found.probability.tobytes() + found.mask.tobytes()).hexdigest()

    return consume


def only(number):
    def consume():
        stem = next(name for name in NOTEBOOKS if name.startswith(number))
        made = [OURS.run.path / name for name in NOTEBOOKS[stem][1]]
        with restored(OURS.run.path / "notebooks"):
            READ_BY.clear()
            if number == "04" or all(path.is_file() for path in made):
                run_tutorial(OURS, [number])
            else:  # `loads` makes nothing, so there are no results that the tutorial could read afterwards
                Step(notebooks([number])[0], OURS).run()
            return READ_BY[stem]

    return consume


def merged():
    return json.dumps(merge(Sweep(Settings(budget="tiny", queries=20), (0,), (0,))), sort_keys=True)


def driver():
    return [book for book in NOTEBOOKS if Step(notebooks([number_of(book)])[0], OURS).why_run()]


CONSUMERS = {
    "from_run": from_run("hsnet"),
    "from_run, prototypes": from_run("prototypes"),
    "--only 04": only("04"),
    "--only 05": only("05"),
    "merge": merged,
    "driver": driver,
}


def swapped(which, with_manifest):
    def damage(path):
        other = OTHERS[which].run.path / path.relative_to(OURS.run.path)
        for theirs in [other, *([other.with_name(f"{other.name}.manifest.json")] if with_manifest else [])]:
            ours = path.with_name(theirs.name)
            if theirs.is_dir():
                shutil.rmtree(ours)
                shutil.copytree(theirs, ours)
            elif theirs.exists():
                shutil.copyfile(theirs, ours)

    return damage


KINDS = DAMAGES | {
    f"of another {which}{', with its manifest' * manifest}": swapped(which, manifest)
    for which in OTHERS
    for manifest in (False, True)
}
IS_READ_BY = {
    "from_run": {"folds.json", "hsnet.safetensors", "support_bank", "calibration.json"},
    "from_run, prototypes": {"folds.json", "hsnet.safetensors", "support_bank", "calibration.json"},
    "--only 04": set(NOTEBOOKS["04_retrieval_scoring"][0]),
    "--only 05": set(NOTEBOOKS["05_full_evaluation"][0]),
    "merge": set(MERGED),
    "driver": {*READ, *MERGED, "notebooks"},
}


def is_read(artifact, consumer):
    return artifact.removesuffix(".manifest.json").partition("/")[0] in IS_READ_BY[consumer]


CELLS = [(a, d, c) for a in ARTIFACTS for d in KINDS for c in CONSUMERS if is_read(a, c) or d in ("deleted", "braces")]
QUICK = set(CELLS[:: len(CELLS) // 60])  # some of every kind; the whole table is drawn by the slow tests
WHOLE: dict[str, object] = {}


@pytest.mark.parametrize(
    ("artifact", "damage", "consumer"), [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in CELLS]
)
def test_a_cell(project, artifact, damage, consumer):
    path, consume = project.path / artifact, CONSUMERS[consumer]
    if consumer not in WHOLE:
        WHOLE[consumer] = consume()
    before = file_hash(path)
    with restored(path, path.with_name(f"{path.name}.manifest.json")):
        KINDS[damage](path)
        try:
            found = consume()
        except LlafsError as error:
            said = str(error)
            assert len(said) < 700 and re.search(r"[Rr]un notebook|llafs |remove|move it away", said), said
            name = artifact.removesuffix(".manifest.json").partition("/")[0]
            assert name in said or re.search(r"was made with \w+=.*, not|stale bank", said), said
            return
        maker = MADE_BY.get(artifact.partition("/")[0], artifact.partition("/")[2].partition(".")[0])
        changed = not path.exists() or file_hash(path) != before
        if consumer == "driver" and changed and maker in NOTEBOOKS:
            assert maker in found, "it is made again"
        else:
            assert found == WHOLE[consumer], "a silently changed result"

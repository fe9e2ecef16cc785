"""The benchmarks run; what they measure is read by people, never asserted (machines differ)."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import COCO_CLASSES, DATASETS
from llafs_lib.data.folds import make_fold, open_dataset
from llafs_lib.evaluation.arms import EVERYTHING, Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, curve, miou
from llafs_lib.evaluation.runner import Question
from llafs_lib.language.asking import Asker
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.tools.tutorial import project_root


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch):
    monkeypatch.syspath_prepend(project_root() / "benchmarks")


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", project_root() / "benchmarks" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def test_data(photographs, cache, tmp_path, capsys):
    data, coco = load("data"), photographs / "coco"
    objects = data.scaled_up(coco / "annotations" / "instances_train2017.json", 330, tmp_path / "instances_330.json")
    assert objects > 330
    seconds, peak, fingerprint = data.open_split(coco / "train2017", tmp_path / "instances_330.json", cache)
    assert data.open_split(coco / "train2017", tmp_path / "instances_330.json", cache)[2] == fingerprint
    data.episodes(coco, rounds=1, threads=1)
    assert "decode, label map, resize" in capsys.readouterr().out


@pytest.mark.slow
def test_vision(capsys, monkeypatch):
    vision = load("vision")
    threads = torch.get_num_threads()
    monkeypatch.setattr(vision, "in_a_process", lambda *_: 1)  # each process imports torch anew
    monkeypatch.setattr("sys.argv", ["vision", "--quick", "--threads", str(threads)])
    vision.main()
    found = capsys.readouterr().out
    assert "5-shot" in found and "training step" in found and "GFLOP" in found


def test_encoding(capsys, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["vision", "--rounds", "1", "--encode", "small:33", "test_vit:32"])
    vision = load("vision")
    vision.main()
    torch.set_num_threads(threads)
    found = capsys.readouterr().out
    assert "| small | 33 |" in found and "| test_vit | 32 |" in found
    with torch.no_grad(), vision.Layers() as layers:
        torch.nn.functional.linear(torch.ones(5, 3), torch.ones(4, 3), torch.ones(4))
        torch.nn.functional.conv2d(torch.ones(1, 2, 4, 4), torch.ones(6, 1, 3, 3), padding=1, groups=2)
    assert layers.seen == [(2 * 5 * 3 * 4, 4 * (15 + 12 + 4 + 20)), (2 * 6 * 16 * 9, 4 * (32 + 54 + 96))]


@pytest.mark.parametrize("some", [1, 2, 8])
def test_known_features_give_the_logits_of_the_whole_model(some, monkeypatch):
    vision = load("vision")
    monkeypatch.setattr(vision, "vote", lambda logits: logits)
    monkeypatch.setattr(vision, "pairs_at_once", lambda device: some)
    scene = vision.Scene.draw("small", 65, 2, 5, 0.5)
    scene.masks[0, 1:] = scene.masks[0, 1:].roll(9, dims=-1)  # so that a support in another's place would be noticed
    torch.testing.assert_close(vision.cached_segment(scene)(), vision.fast_segment(scene)(), rtol=1e-4, atol=1e-4)


def test_policies(photographs, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    arguments = ["--limit", "6", "--size", "97", "--insid3", "--out", str(tmp_path / "counts.jsonl")]
    monkeypatch.setattr("sys.argv", ["policies", *arguments, "--threads", str(torch.get_num_threads())])
    policies, chosen_from = load("policies"), []
    monkeypatch.setattr(policies, "best_thresholds", recorded(policies.best_thresholds, chosen_from))
    policies.main()
    found = capsys.readouterr().out
    for text in (
        "| hybrid |",
        "llm all − all all",
        "self-consistent",
        "show the class asked for unlabelled",
        "5 true + 20 llm, weight 0.3",
        "| INSID3 | mIoU | − prototypes |",
        "6 queries reported",
        "Appendix: thresholds chosen on the other half of the queries",
        "| on base classes | fold 0 |",
        "| supports | thresholds of base classes | tuned |",
    ):
        assert text in found
    ((by_fold,), thresholds) = chosen_from[0]
    data, lines = open_dataset("coco-mini"), (tmp_path / "counts.jsonl").read_text(encoding="utf-8").splitlines()
    for fold, curves in enumerate(by_fold):
        seen = [(c.class_name, c.image_id) for asked in curves.values() for c in asked]
        assert {c for c, _ in seen} <= set(data.benchmark.base(fold))
        assert {i for _, i in seen} <= set(data.train.image_ids)
    names, headline = {arm.name: arm for arm in thresholds}, 0
    for line in map(json.loads, lines):
        if line["chosen_on"] == "base classes":
            (fold,) = (f for f in range(4) if line["class_name"] in data.benchmark.novel(f))
            assert line["threshold"] == thresholds[names[line["arm"]]][fold]
            headline += 1
    assert {"inter", "union", "image_id"} <= set(line) and headline == 6 * len(policies.Study.arms)


def recorded(function, calls):
    """The function, which adds (arguments, result) of every call to a list."""

    def call(*arguments):
        calls.append((arguments, function(*arguments)))
        return calls[-1][1]

    return call


def test_base_classes_are_asked_about_as_if_they_were_novel():
    study, tables, drawn = load("policies").Study, load("policy_tables"), load("policy_ideas").Drawn
    rng, n = np.random.default_rng(0), 3 * len(COCO_CLASSES)  # three images of each class, of one class each
    index, ids, directions = np.arange(n) // 3, 100 + np.arange(n), rng.normal(size=(n, 4)).astype(np.float32)
    bank = SupportBank(COCO_CLASSES, ids, index, directions, -directions, np.full(n, 0.3, np.float32))
    train = SimpleNamespace(classes=COCO_CLASSES, image_ids=ids.tolist(), pixels=np.eye(80, dtype=int)[index] * 5000)
    benchmark, llm = DATASETS["coco-mini"], Asker().related_to_each(COCO_CLASSES, COCO_CLASSES)
    fake = SimpleNamespace(dataset=SimpleNamespace(benchmark=benchmark, train=train), bank=bank, llm=llm)
    fake._about = lambda *about: study._about(fake, *about)
    arms = [arm for arm in tables.policy_arms() if arm.k in (5, "all") and arm.policy != "oracle"]
    arms.append(drawn("m", "true", 1, added="llm"))
    for fold in range(4):
        questions, base = study.base_questions(fake, fold, 60), set(benchmark.base(fold))
        assert len(questions) == 60 and {q.episode.class_name for q in questions} == base
        for q in questions:
            name = q.episode.class_name
            assert index[q.episode.query_id - 100] == COCO_CLASSES.index(name)
            for arm in arms:
                chosen = arm.choose(q.bank, q.request(directions[0]))
                own = {name} if arm.policy == "true" else set()
                others = base - {name} if arm.policy != "true" or arm.added else set()
                assert chosen and {c.class_name for c in chosen} <= own | others
                assert q.episode.query_id not in {c.image_id for c in chosen}


def test_each_query_is_cut_at_the_threshold_of_its_fold():
    thresholds, arm, truth = load("policy_thresholds"), Arm("m", "llm", 5), np.arange(100).reshape(10, 10) >= 60
    scores = np.linspace(0, 1, 100).reshape(10, 10)
    base = [{arm: [curve(scores, truth, "horse", 1)]}, {arm: [curve(scores, scores >= 0.2, "bus", 2)]}]
    found = thresholds.best_thresholds(base)
    novel = {arm: [curve(scores, truth, "giraffe", 3), curve(scores, truth, "truck", 4)]}
    counts = thresholds.cut(novel, found, {"giraffe": 0, "truck": 1})[arm]
    assert counts == [novel[arm][0].at(found[arm][0]), novel[arm][1].at(found[arm][1])]
    assert counts[0].iou == 100 and counts[1].iou < 60


def drawn_question(query_id, classes=("horse", "bus")):
    """Where is the giraffe, which looks like a horse (axis 0)? Buses look along axis 1, the ground along 2."""
    ids, index, eye = np.arange(100, 104), np.array([0, 0, 1, 1]), np.eye(3, dtype=np.float32)
    bank = SupportBank(classes, ids, index, eye[index], eye[[2] * 4], np.full(4, 0.3, np.float32), np.zeros((4, 4)))
    related = RelatedClasses("giraffe", (RelatedClass("horse", 0.8),), "recorded", "")
    return Question(Episode("giraffe", query_id, (200, 201, 202)), bank, related, exclude=frozenset({100, 201}))


def test_drawn_arms():
    arm, question = load("policy_ideas").Drawn, drawn_question(1)
    request = question.request(np.ones(3, np.float32) / 3**0.5)

    def chosen(*fields, **more):
        return {(c.image_id, c.weight) for c in arm("m", *fields, **more).choose(question.bank, request)}

    assert chosen("llm", "all") == {(100, 1), (101, 1)} and chosen("llm", "all", clean=True) == {(101, 1)}
    assert chosen("true", "all") == {(200, 1), (201, 1), (202, 1)} and len(chosen("true", 2)) == 2
    assert chosen("true", "all", added="llm", number=5, share=0.1) >= {(200, 1), (100, 0.1), (101, 0.1)}


def test_the_oracle_is_the_base_class_that_does_best_elsewhere():
    study = load("policies").Study
    truth = np.repeat([[True] * 4 + [False] * 4], 4, axis=0)  # [4, 8], the left half
    features = torch.zeros(3, 4, 8)
    features[0, :, :4], features[2, :, 4:] = 1, 1  # a giraffe in the left half, ground in the right
    fake = SimpleNamespace(read_query=lambda episode: (None, truth, None), describe=lambda image: features)
    questions = [drawn_question(i) for i in range(3)]
    assert {q.others["oracle"].names for q in study.with_oracle(fake, questions)} == {("horse",)}
    (alone,) = study.with_oracle(fake, questions[:1])
    assert alone.others["oracle"].names == ()


def test_bank(photographs, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    arguments = ["--times", "1", "--rows", "3000", "--queries", "3", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr("sys.argv", ["bank", *arguments])
    load("bank").main()
    found = capsys.readouterr().out
    assert "| 1 | 300 | " in found and "exact, five related classes" in found


@pytest.mark.slow
def test_gpu(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--quick"])
    load("gpu").main()
    found = capsys.readouterr().out
    for text in ("training step", "| test_vit | random | 96 |", "| INSID3 |", "logits, largest difference"):
        assert text in found


@pytest.mark.slow
def test_evaluation(photographs, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    arguments = ["--queries", "1", "--rounds", "1", "--size", "97", "--full-backbone", "small", "--full-size", "97"]
    monkeypatch.setattr("sys.argv", ["evaluation", *arguments, "--threads", str(torch.get_num_threads())])
    load("evaluation").main()
    found = capsys.readouterr().out
    for text in ("| HSNet |", "| RePRI |", "| 4 |", "hours for COCO-20i's 4,000 episodes"):
        assert text in found


def test_a_drawn_coco_is_laid_out_like_the_official_one(cache, tmp_path, monkeypatch):
    drawn = load("drawn_coco")
    assert drawn.draw_coco(tmp_path / "coco", 80) == round(80 * drawn.OBJECTS) + round(40 * drawn.OBJECTS)
    monkeypatch.setenv("LLAFS_DATA", str(tmp_path))
    data = open_dataset("coco-20i")
    assert (len(data.train), len(data.val)) == (80, 40) and not {*data.train.image_ids} & {*data.val.image_ids}
    assert data.train.file(data.train.image_ids[0]).name.startswith("COCO_train2014_000000")
    assert "crowd" in data.train.skipped[0] and len(data.train.skipped) == 1, "all else is as COCO says"
    fold = make_fold(data, 1)
    assert len(fold.train_images["person"]) > 5 and len(fold.shown(data.classes)) > 20
    for image_id in data.val.image_ids:
        assert data.val.image(image_id).shape[:2] == data.val.label_map(image_id).shape


@pytest.mark.slow
def test_full_scale(cache, tmp_path, capsys, monkeypatch):
    for name in ("LLAFS_DATA", "LLAFS_PROGRESS"):
        monkeypatch.setenv(name, "")  # so that the test ends with what it found
    threads, kept = torch.get_num_threads(), set(cache.glob("*"))
    monkeypatch.setattr("sys.argv", ["full_scale", "--quick", "--folder", str(tmp_path / "drawn")])
    load("full_scale").main()
    torch.set_num_threads(threads)
    found = capsys.readouterr().out
    for text in (
        "| draw COCO 2014 |",
        "| the first 2 steps, one pair each |",
        "| this machine, idle |",
        "Assumed: the H100",
    ):
        assert text in found
    assert set(cache.glob("*")) == kept, "label maps of drawn images are removed"


def test_kills_notices_what_is_half_written_and_what_differs_beyond_its_times(tmp_path):
    kills, a, b = load("kills"), tmp_path / "a", tmp_path / "b"
    for place, seconds in ((a, 1), (b, 2.5)):
        with RunFolder(place / "runs", "toy", 0).writing("folds.json", {"fold": 0}) as partial:
            partial.write_text(json.dumps({"n": 3, "seconds": {"all": seconds}}))
        (place / "runs/toy/fold0/results.md").write_text(f"It took {seconds} s.")
        state = {"images": {"a.jpg": [3, int(seconds * 10**18)]}, "seal": f"{int(seconds)}ab"}
        (place / "runs/toy/fold0/files.json").write_text(json.dumps(state))
    assert kills.half_written(a) == kills.differences(a, b) == []
    (b / "runs/toy/fold0/.7.7.partial.folds.json").touch()
    (b / "runs/toy/fold0/results.md").write_text("It took 3 s, and one more.")
    assert kills.half_written(b) == [] and len(kills.differences(b, a)) == 2
    (a / "runs/toy/fold0/folds.json").write_text('{"n": 4}')
    assert "does not match its manifest" in kills.half_written(a)[0]
    (a / "runs/toy/fold0/folds.json").write_text('{"n":')
    assert len(kills.half_written(a)) == 2 and "folds.json differs" in str(kills.differences(a, b))


def test_coverage(capsys, monkeypatch):
    coverage = load("coverage")
    monkeypatch.setattr(coverage, "SETTINGS", coverage.SETTINGS[1:2])
    monkeypatch.setattr(coverage, "NULLS", coverage.NULLS[3:4])
    monkeypatch.setattr("sys.argv", ["coverage", "--rounds", "60"])
    coverage.main()
    table, nulls = capsys.readouterr().out.rstrip().split("\n\n")[1:]
    held = table.splitlines()[-1].split("|")[5:-2]  # after name, shape, trainings, rows
    assert all(float(share) > 85 for shares in held for share in shares.split(","))
    assert "of 10 intervals" in nulls and float(nulls.split("lies in ")[1].split("%")[0]) > 85


def test_what_another_seed_and_another_sweep_are_worth(tmp_path, monkeypatch, capsys):
    script, found = load("trainings"), {}
    for (sweep, seed), llm in {("a", 0): 50, ("a", 1): 54, ("b", 0): 51, ("b", 1): 55}.items():
        log = tmp_path / sweep / f"seed{seed}" / "toy" / "fold0" / "queries.novel.jsonl"
        log.parent.mkdir(parents=True)
        log.with_name("results.json").touch()
        found[log] = {
            Arm("HSNet", policy, 5): [ConfusionCounts("hen", 1, inter, 100, 0, 1)]
            for policy, inter in (("llm", llm), ("random", 40))
        }
    monkeypatch.setattr(script, "read_log", found.get)
    monkeypatch.setattr(script, "counts_of", lambda answers: answers)
    script.main("toy", tmp_path / "a", tmp_path / "b")
    assert capsys.readouterr().out.splitlines() == [  # deviations of (50, 54) and (50, 51), and of 40 twice
        "4 trainings of 1 folds",
        "HSNet, another seed: rows 2.00, claims 2.83 points a fold, 2.83 over 1 folds",
        "HSNet, another sweep: rows 0.50, claims 0.71 points a fold, 0.71 over 1 folds",
    ]
    with pytest.raises(SystemExit, match="no finished run of coco-mini"):
        script.main("coco-mini", tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("evaluation", "--rounds"),
        ("data", "--data"),
        ("vision", "--quick"),
        ("policies", "--limit"),
        ("bank", "--rows"),
        ("gpu", "--quick"),
        ("kills", "--sweep"),
        ("coverage", "--rounds"),
        ("full_scale", "--full-steps"),
    ],
)
def test_help(name, option, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        load(name).main()
    assert end.value.code == 0 and option in capsys.readouterr().out


@pytest.mark.parametrize(("ids", "counted"), [((2, 4, 6, 8), [2, 6]), ((3, 5, 7), [3, 7]), ((4,), [4]), ((4, 5), [5])])
def test_whatever_the_ids_one_half_is_tuned_on_and_the_other_counted(ids, counted):
    cut_scores = load("policy_thresholds").cut_scores
    truth = np.eye(4, dtype=bool)
    curves = {EVERYTHING: [curve(np.where(truth, 0.9, 0.3), truth, "hen", i) for i in ids]}
    counts, thresholds = cut_scores(curves)
    assert [c.image_id for c in counts[EVERYTHING]] == counted and miou(counts[EVERYTHING]) == 100
    assert thresholds[EVERYTHING] == pytest.approx(0.5 if len(ids) == 1 else 0.31)

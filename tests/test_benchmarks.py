"""The benchmarks run; what they measure is read by people, never asserted (machines differ)."""

import importlib.util
import json
import sys

import pytest
import torch

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


def test_vision(capsys, monkeypatch):
    vision = load("vision")
    threads = torch.get_num_threads()
    monkeypatch.setattr(vision, "in_a_process", lambda *_: 1)  # each process imports torch anew
    monkeypatch.setattr("sys.argv", ["vision", "--quick", "--threads", str(threads)])
    vision.main()
    found = capsys.readouterr().out
    assert "5-shot" in found and "training step" in found and "GFLOP" in found


def test_policies(photographs, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    arguments = ["--limit", "6", "--size", "97", "--out", str(tmp_path / "counts.jsonl")]
    monkeypatch.setattr("sys.argv", ["policies", *arguments, "--threads", str(torch.get_num_threads())])
    load("policies").main()
    found = capsys.readouterr().out
    for text in (
        "| hybrid |",
        "llm all − all all",
        "self-consistent",
        "show the class asked for unlabelled",
        "5 true + 20 llm, weight 0.3",
    ):
        assert text in found
    lines = (tmp_path / "counts.jsonl").read_text(encoding="utf-8").splitlines()
    assert {"arm", "threshold", "class_name", "inter", "union"} <= set(json.loads(lines[0]))


def test_bank(photographs, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    arguments = ["--times", "1", "--rows", "3000", "--queries", "3", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr("sys.argv", ["bank", *arguments])
    load("bank").main()
    found = capsys.readouterr().out
    assert "| 1 | 286 | 694 |" in found and "exact, five related classes" in found


def test_evaluation(photographs, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    arguments = ["--queries", "1", "--rounds", "1", "--size", "97", "--full-backbone", "small", "--full-size", "97"]
    monkeypatch.setattr("sys.argv", ["evaluation", *arguments, "--threads", str(torch.get_num_threads())])
    load("evaluation").main()
    found = capsys.readouterr().out
    for text in ("| HSNet |", "| RePRI |", "| 4 |", "hours for COCO-20i's 4,000 episodes"):
        assert text in found


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("evaluation", "--rounds"),
        ("data", "--data"),
        ("vision", "--quick"),
        ("policies", "--limit"),
        ("bank", "--rows"),
    ],
)
def test_help(name, option, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        load(name).main()
    assert end.value.code == 0 and option in capsys.readouterr().out

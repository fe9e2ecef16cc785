"""The benchmarks run; what they measure is read by people, never asserted (machines differ)."""

import importlib.util

import pytest

from llafs_lib.tutorial import project_root


def load(name):
    spec = importlib.util.spec_from_file_location(name, project_root() / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
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


@pytest.mark.parametrize("name", ["data"])
def test_help(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        load(name).main()
    assert end.value.code == 0 and "--data" in capsys.readouterr().out

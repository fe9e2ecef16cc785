"""The rows of a bank as Ray tasks on two nodes, of which one dies."""

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from llafs_lib import LLaFS
from llafs_lib.bank_folder import SHARDS, Wanted
from llafs_lib.retrieval.bank import COLUMNS
from llafs_lib.tools.cluster import Resources
from llafs_lib.tools.shards import make_rows

WANTED = Wanted("small", 65, 0.0)


def draw_files(folder, n):
    """`n` images of one square each, of three classes."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        x, y = 4 + i % 20, 3 + i % 10
        outline = [x, y, x + 30, y, x + 30, y + 25, x, y + 25]
        annotations.append({"id": i, "image_id": i, "category_id": i % 3, "segmentation": [outline], "iscrowd": 0})
    categories = [{"id": n, "name": name} for n, name in enumerate(("pony", "quagga", "van"))]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


@pytest.mark.slow
def test_a_node_dies_and_the_bank_is_the_same(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'llafs-notebooks[cluster]'")
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    file, folder = draw_files(tmp_path / "own", 240), tmp_path / "bank"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    errors = []

    def drive():
        try:
            make_rows(folder, file, None, WANTED, Resources(address=cluster.address), per_task=60)
        except Exception as error:
            errors.append(error)

    driver = threading.Thread(target=drive)
    try:
        driver.start()
        until = time.monotonic() + 120
        while time.monotonic() < until and not list(folder.glob(f"{SHARDS}/.*.partial")):
            time.sleep(0.05)
        assert list(folder.glob(f"{SHARDS}/.*.partial")), "no part was begun"
        cluster.remove_node(second, allow_graceful=False)
        driver.join(240)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not errors and not (folder / SHARDS).exists()
    whole = LLaFS.from_coco(file, bank=tmp_path / "whole", backbone="small", size=65, min_area=0.0)
    LLaFS.from_coco(file, bank=folder, backbone="small", size=65, min_area=0.0)  # calibrates what is there
    for column in COLUMNS:
        made, expected = (np.load(f / "support_bank" / f"{column}.npy") for f in (folder, tmp_path / "whole"))
        np.testing.assert_allclose(made, expected, atol=1e-6, err_msg=column)
    assert whole.segment(tmp_path / "own" / "images" / "0.png", "pony").supports[0].image.shape == (48, 64, 3)

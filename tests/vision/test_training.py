import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from llafs_lib.errors import LlafsError
from llafs_lib.vision.losses import IGNORE, cross_entropy, dice
from llafs_lib.vision.training import RECIPES, Recipe, fit, recipe_for

RECIPE = Recipe(size=8, epochs=4, episodes=8, batch=4)


def samples_of(epoch):
    rng = torch.Generator().manual_seed(epoch)
    return TensorDataset(torch.rand(8, 3, generator=rng), torch.rand(8, 1, generator=rng))


def squared(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def new_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


def train(checkpoint, epochs=4, recipe=RECIPE, seed=0, validate=None):
    model = new_model(seed)
    history = fit(model, squared, samples_of, recipe, epochs, checkpoint, seed=seed, validate=validate)
    return model.state_dict(), history


def interrupt_after(epoch):
    def samples(e):
        if e == epoch:
            raise KeyboardInterrupt
        return samples_of(e)

    return samples


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    straight, history = train(tmp_path / "a.safetensors")
    model = new_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, squared, interrupt_after(2), RECIPE, 4, tmp_path / "b.safetensors", seed=0)
    resumed, history_of_both = train(tmp_path / "b.safetensors")
    assert history_of_both == history
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path, capsys):
    train(tmp_path / "a.safetensors")
    train(tmp_path / "a.safetensors", recipe=replace(RECIPE, rate=0.1))
    train(tmp_path / "a.safetensors", seed=1)
    assert "resumed" not in capsys.readouterr().out


def test_training_lowers_the_loss(tmp_path):
    _, history = train(tmp_path / "a.safetensors", epochs=40, recipe=replace(RECIPE, rate=1e-2))
    assert history.losses[-1] < history.losses[0]


class Scored:
    """A validation that likes the second epoch best, and remembers the weights it was shown."""

    def __init__(self):
        self.scores, self.seen = iter([0.1, 0.7, 0.3, 0.7]), []

    def __call__(self, model):
        self.seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(self.scores)


def test_the_best_epoch_is_kept(tmp_path):
    validate = Scored()
    weights, history = train(tmp_path / "a.safetensors", validate=validate)
    assert history.scores == [0.1, 0.7, 0.3, 0.7] and history.best == 2
    assert all(torch.equal(weights[k], validate.seen[1][k]) for k in weights)
    assert not all(torch.equal(weights[k], validate.seen[3][k]) for k in weights)


def test_the_best_epoch_survives_an_interruption(tmp_path):
    validate, model = Scored(), new_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, squared, interrupt_after(3), RECIPE, 4, tmp_path / "a.safetensors", seed=0, validate=validate)
    weights, history = train(tmp_path / "a.safetensors", validate=validate)
    assert history.scores == [0.1, 0.7, 0.3, 0.7] and len(validate.seen) == 4
    assert all(torch.equal(weights[k], validate.seen[1][k]) for k in weights)


TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[1])
from test_training import RECIPE, new_model, samples_of, squared
from dataclasses import replace
from llafs_lib.vision.training import fit
model = new_model()
fit(model, squared, samples_of, replace(RECIPE, batch=int(sys.argv[2])), 3, Path(sys.argv[3]), seed=0)
if int(__import__("os").environ.get("RANK", 0)) == 0:
    save_file(model.state_dict(), sys.argv[4])
"""


def test_two_processes_take_the_path_of_one_with_twice_the_batch(tmp_path):
    (tmp_path / "job.py").write_text(TWO_PROCESSES)
    here, weights = str(Path(__file__).parent), {}
    launchers = {2: ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], 4: []}
    for batch, launcher in launchers.items():
        out = tmp_path / f"{batch}.safetensors"
        arguments = [str(tmp_path / "job.py"), here, str(batch), str(tmp_path / f"{batch}.checkpoint"), str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, *launcher, *arguments], check=True, timeout=180, env=environment)
        weights[batch] = load_file(out)
    for name, value in weights[4].items():
        torch.testing.assert_close(weights[2][name], value, atol=1e-5, rtol=0)
        assert not torch.equal(value, new_model().state_dict()[name])


def test_recipes():
    assert recipe_for("full", "coco-20i").dice == 0, "HSNet was published without Dice"
    with pytest.raises(LlafsError, match="no recipe for budget='huge'"):
        recipe_for("huge", "toy")
    assert {"toy", "coco-mini"} <= set(RECIPES["tiny"]) & set(RECIPES["small"])


def test_dice_by_hand():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = torch.tensor([[50.0, 50.0], [-50.0, -50.0]])  # foreground in the upper row
    assert dice(logits, torch.tensor([[[1, 1], [0, 0]]])).item() == pytest.approx(0)
    assert dice(logits, torch.tensor([[[0, 0], [1, 1]]])).item() == pytest.approx(1 - 1 / 5)
    assert dice(logits, torch.tensor([[[1, 1], [IGNORE, IGNORE]]])).item() == pytest.approx(0)


def test_ignored_pixels_do_not_count():
    logits = torch.rand(1, 2, 4, 4)
    labels = torch.randint(0, 2, (1, 4, 4))
    labels[0, 0] = IGNORE
    changed = logits.clone()
    changed[:, :, 0] = 9
    for loss in (cross_entropy, dice):
        assert loss(logits, labels) == loss(changed, labels)


def test_a_checkpoint_of_another_library_is_not_resumed(tmp_path, monkeypatch, capsys):
    train(tmp_path / "a.safetensors")
    monkeypatch.setattr("llafs_lib.vision.training.library_digest", lambda: "changed")
    train(tmp_path / "a.safetensors")
    assert "resumed" not in capsys.readouterr().out

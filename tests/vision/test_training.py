from dataclasses import replace

import pytest
import torch
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


def train(checkpoint, epochs=4, recipe=RECIPE, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    history = fit(model, squared, samples_of, recipe, epochs, checkpoint, seed=seed)
    return model.state_dict(), history


def interrupt_after(epoch):
    def samples(e):
        if e == epoch:
            raise KeyboardInterrupt
        return samples_of(e)

    return samples


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    straight, history = train(tmp_path / "a.safetensors")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
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
    assert history[-1] < history[0]


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

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from llafs_lib.errors import LlafsError
from llafs_lib.vision import recipes, training
from llafs_lib.vision.losses import IGNORE, contrastive, cross_entropy, dice
from llafs_lib.vision.recipes import BASE, HSNET, Recipe, recipe_for
from llafs_lib.vision.training import _optimizer as make
from llafs_lib.vision.training import fit

RECIPE = Recipe(size=8, epochs=4, batch=4)


def samples_of(epoch):
    rng = torch.Generator().manual_seed(epoch)
    return TensorDataset(torch.rand(8, 3, generator=rng), torch.rand(8, 1, generator=rng))


def squared(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def new_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


def train(checkpoint, recipe=RECIPE, seed=0, **options):
    model = new_model(seed)
    history = fit(model, squared, samples_of, recipe, checkpoint, seed=seed, **options)
    return model.state_dict(), history


def interrupt_after(epoch):
    def samples(e):
        if e == epoch:
            raise KeyboardInterrupt
        return samples_of(e)

    return samples


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, optimizer):
    recipe = replace(RECIPE, optimizer=optimizer)
    straight, history = train(tmp_path / "a.safetensors", recipe)
    model = new_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, squared, interrupt_after(2), recipe, tmp_path / "b.safetensors", seed=0)
    resumed, history_of_both = train(tmp_path / "b.safetensors", recipe)
    assert history_of_both == history
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path, capsys):
    train(tmp_path / "a.safetensors")
    train(tmp_path / "a.safetensors", recipe=replace(RECIPE, rate=0.1))
    train(tmp_path / "a.safetensors", seed=1)
    assert "resumed" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "garbage"])
def test_a_damaged_checkpoint_is_not_resumed(tmp_path, capsys, damage):
    checkpoint = tmp_path / "a.safetensors"
    whole, _ = train(checkpoint)
    data = checkpoint.read_bytes()
    last = bytes([data[-1] ^ 255])
    checkpoint.write_bytes({"cut": data[:-10], "empty": b"", "flipped": data[:-1] + last, "garbage": b"no"}[damage])
    again, _ = train(checkpoint)
    assert "is damaged, so the training starts anew" in capsys.readouterr().out
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_training_lowers_the_loss(tmp_path):
    _, history = train(tmp_path / "a.safetensors", recipe=replace(RECIPE, epochs=40, rate=1e-2))
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
        fit(model, squared, interrupt_after(3), RECIPE, tmp_path / "a.safetensors", seed=0, validate=validate)
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
fit(model, squared, samples_of, replace(RECIPE, epochs=3, batch=int(sys.argv[2])), Path(sys.argv[3]), seed=0)
if int(__import__("os").environ.get("RANK", 0)) == 0:
    save_file(model.state_dict(), sys.argv[4])
"""


@pytest.mark.slow
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


def test_losses_and_scores_are_logged_for_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    scores, logs = iter([0.1, 0.7, 0.3, 0.7]), tmp_path / "logs"
    history = fit(
        new_model(), squared, samples_of, RECIPE, tmp_path / "a", seed=0, validate=lambda _: next(scores), logs=logs
    )
    (written,) = {path.parent for path in logs.rglob("events.out*")}
    reader = events.EventAccumulator(str(written)).Reload()
    assert [e.value for e in reader.Scalars("loss")] == pytest.approx(history.losses)
    assert [(e.step, round(e.value, 6)) for e in reader.Scalars("score")] == list(enumerate(history.scores, start=1))


def test_recipes():
    assert recipe_for("full", "coco-20i").dice == 0, "HSNet was published without Dice"
    with pytest.raises(LlafsError, match="no recipe for budget='huge'"):
        recipe_for("huge", "toy")
    for presets in (HSNET, BASE):
        assert {"toy", "coco-mini"} <= set(presets["tiny"]) & set(presets["small"])
        assert set(presets["tiny"]) - {"toy", "coco-mini", recipes.OWN} == set(presets["full"]) == set(recipes.RELEASES)


def test_the_rate_goes_from_its_start_to_its_end(tmp_path):
    rates = []

    def loss(model, batch):
        rates.append(optimizers[0].param_groups[0]["lr"])
        return squared(model, batch)

    optimizers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_optimizer", lambda *a: optimizers.append(make(*a)) or optimizers[0])
        fit(new_model(), loss, samples_of, replace(RECIPE, rate=1e-2, last_rate=1e-3), tmp_path / "a", seed=0)
    assert len(rates) == 8 and rates[0] == 1e-2 and rates == sorted(rates, reverse=True)
    assert rates[4] == pytest.approx((1e-2 + 1e-3) / 2)  # half-way, the cosine is half-way


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    with pytest.raises(LlafsError, match="the loss of epoch 1 is nan"):
        fit(new_model(), lambda m, b: squared(m, b) * float("nan"), samples_of, RECIPE, tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()


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
    for loss in (cross_entropy, dice, contrastive):
        assert loss(logits, labels) == loss(changed, labels)
        nothing = loss(logits, torch.full_like(labels, IGNORE))
        assert nothing.isfinite() and nothing >= 0


def test_contrastive_by_hand():
    z, y = torch.randn(2, 5, 4, 4, dtype=torch.float64), torch.randint(0, 2, (2, 4, 4))
    y[:, 0, 0], y[:, 0, 1], y[0, 3] = 0, 1, IGNORE
    losses = []
    for b, i, j in np.ndindex(2, 4, 4):
        if y[b, i, j] == IGNORE:
            continue
        units = F.normalize(z[b], dim=0)
        means = [F.normalize(units[:, y[b] == kind].mean(dim=1), dim=0) for kind in (0, 1)]
        similar = [torch.exp(units[:, i, j] @ mean / 0.1) for mean in means]
        losses.append(-torch.log(similar[y[b, i, j]] / (similar[0] + similar[1])))
    torch.testing.assert_close(contrastive(z, y), torch.stack(losses).mean())


def test_contrastive_needs_both_kinds():
    z = torch.randn(1, 5, 4, 4)
    assert contrastive(z, torch.zeros(1, 4, 4, dtype=torch.long)) == 0
    apart = torch.zeros(1, 2, 4, 4)
    apart[:, 0, :2], apart[:, 1, 2:] = 1, 1
    y = torch.zeros(1, 4, 4, dtype=torch.long)
    y[:, :2] = 1
    assert contrastive(apart, y).item() == pytest.approx(np.log1p(np.exp(-10)), rel=1e-3)  # cosines 1 and 0, over 0.1


def test_only_an_edit_of_what_decides_a_model_trains_it_again(tmp_path, edit_library, capsys):
    def resumed():
        train(tmp_path / "a.safetensors")
        return "resumed" in capsys.readouterr().out

    assert not resumed() and resumed()
    edit_library("vision/losses.py", '"""Training losses."""', '"""The losses of training."""')
    edit_library("vision/losses.py", "# label of pixels that no loss looks at", "# no loss looks here")
    edit_library("tools/sweep.py", "import os\n", "import os\n\nEDITED = True\n")
    assert resumed()
    edit_library("vision/losses.py", "IGNORE = 255", "IGNORE = 254")
    assert not resumed() and resumed()


def test_fewer_samples_than_a_batch_make_one_small_batch(tmp_path):
    few = TensorDataset(*(part[:3] for part in samples_of(0).tensors))
    history = fit(new_model(), squared, lambda epoch: few, RECIPE, tmp_path / "a.safetensors", seed=0)
    assert len(history.losses) == RECIPE.epochs and history.losses[-1] < history.losses[0]

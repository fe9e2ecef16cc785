"""Training: one visible loop for HSNet's learner and for RePRI's base network.

An interrupted run goes on after its last finished epoch and ends with the same weights: each epoch has its own seed, so
model and optimiser are all the state there is.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from llafs_lib.artifacts import MODELS, library_digest
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track
from llafs_lib.vision.checkpoints import read_training, save_training
from llafs_lib.vision.losses import Batch
from llafs_lib.vision.recipes import Recipe


@dataclass
class History:
    """What training did: the mean loss of each epoch and, where there was a validation, its score after each.

    `best` is the epoch, counted from 1, whose weights the model has: the first with the best score, else the last.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        return 1 + self.scores.index(max(self.scores)) if self.scores else len(self.losses)


def fit(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    samples_of: Callable[[int], Dataset],
    recipe: Recipe,
    checkpoint: Path,
    seed: int,
    facts: Mapping[str, str | int | float] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    logs: Path | None = None,
) -> History:
    """Train `model` in place, on a GPU if there is one, on several with `torchrun`.

    The training goes on from `checkpoint` if that was made with the same recipe, seed, `facts` and library. The model
    comes back to the device that it was on, so that it still fits what it was built with.

    Args:
        loss_of: (model, batch) → scalar loss.
        samples_of: epoch number → the samples of that epoch; must depend on nothing else.
        checkpoint: written at the end of every epoch.
        validate: model → a score, the higher the better, asked after every epoch; the model ends with the weights of
            the best epoch. Never score on novel classes (spec §6.1): that is what held-out base classes are for.
        logs: a folder for losses and scores, to be watched with TensorBoard where that is installed.

    Raises:
        LlafsError: the loss is no longer finite.
    """
    key = json.dumps([asdict(recipe), seed, dict(facts or {}), library_digest(MODELS)], sort_keys=True)
    accelerator = _accelerator(logs)
    optimizer = _optimizer(model, recipe)
    history, best = History(), {}
    if found := read_training(checkpoint, key, model, optimizer):
        history, best = History(**found[0]), found[1]
    home = next(model.parameters()).device
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # batch statistics over all processes (spec §2.2)
    model.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for epoch in range(len(history.losses), recipe.epochs):
        loader = accelerator.prepare(_loader(samples_of(epoch), recipe.batch, seed * 100_003 + epoch))
        prepared.train()
        losses = []
        for step, batch in enumerate(track(loader, f"epoch {epoch + 1}/{recipe.epochs}", "step")):
            _set_rate(optimizer, recipe, (epoch + step / len(loader)) / recipe.epochs)
            loss = loss_of(prepared, batch)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach()).mean().item())
        history.losses.append(float(np.mean(losses)))
        if not math.isfinite(history.losses[-1]):
            raise LlafsError(f"the loss of epoch {epoch + 1} is {history.losses[-1]}: train with a smaller rate.")
        if validate is not None:
            history.scores.append(validate(model.eval()))
            if history.best == epoch + 1:
                best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        accelerator.log({"loss": history.losses[-1]} | ({"score": history.scores[-1]} if validate else {}), epoch + 1)
        if accelerator.is_main_process:
            save_training(checkpoint, key, model, optimizer, asdict(history), best)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if best:
        model.load_state_dict(best)
    model.to(home).eval()
    return history


def _accelerator(logs: Path | None) -> Accelerator:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    # Unless told to use the CPU, accelerate takes two processes without a GPU for two runs of their own.
    if logs is None or importlib.util.find_spec("tensorboard") is None:
        return Accelerator(cpu=not gpu)
    accelerator = Accelerator(cpu=not gpu, log_with="tensorboard", project_dir=logs.parent)
    accelerator.init_trackers(logs.name)
    return accelerator


def _loader(samples: Dataset, batch: int, seed: int) -> DataLoader:
    """An epoch's batches in an order that `seed` alone decides, however many processes share them."""
    torch.manual_seed(seed)  # for what the model itself draws, such as dropout
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    return DataLoader(samples, min(batch, len(order)), sampler=order, drop_last=True)  # few images make one small batch


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=recipe.rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return torch.optim.Adam(trained, lr=recipe.rate)


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    for group in optimizer.param_groups:
        left = 0.5 * (1 + math.cos(math.pi * progress))
        group["lr"] = recipe.rate * left + recipe.last_rate * (1 - left)

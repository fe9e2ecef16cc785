"""Training: one visible loop for the small backbone and for HSNet's learner.

An interrupted run goes on after its last finished epoch and ends with the same weights: each epoch has its own seed, so
model and optimiser are all the state there is.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from llafs_lib.artifacts import library_digest
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track
from llafs_lib.records import Episode
from llafs_lib.vision.backbone import Backbone, encode, to_input
from llafs_lib.vision.hsnet_fast import Pairs
from llafs_lib.vision.losses import cross_entropy, dice


@dataclass(frozen=True)
class Recipe:
    """How long and how to train. `episodes` is the number of draws per epoch; `decay` anneals the rate to 0."""

    size: int
    epochs: int
    episodes: int
    batch: int
    rate: float = 1e-3
    decay: bool = True
    dice: float = 1.0  # weight of the Dice loss beside cross-entropy
    backbone_epochs: int = 0  # only where the backbone is trained from scratch
    half: bool = False  # bfloat16 where a GPU allows it


_COCO = ("coco-20i", "coco-20i-2017", "coco-blocks", "coco-blocks-2017")  # the full releases
_PASCAL = ("pascal-5i",)

# budget → data set → recipe. `tiny` proves that everything runs; `small` is for two CPU cores; `full` is the paper's
# (spec §1.9: Adam at 1e-3, constant; one epoch of fold 0 is 62,040 draws on COCO-20i and 11,394 on PASCAL-5i; training
# was stopped by hand).
RECIPES: dict[str, dict[str, Recipe]] = {
    "tiny": {
        "toy": Recipe(size=129, epochs=2, episodes=40, batch=4, backbone_epochs=2),
        **dict.fromkeys(("coco-mini", *_COCO, *_PASCAL), Recipe(size=129, epochs=2, episodes=40, batch=4)),
    },
    "small": {
        "toy": Recipe(size=161, epochs=10, episodes=200, batch=4, backbone_epochs=12),
        "coco-mini": Recipe(size=225, epochs=12, episodes=500, batch=4, rate=5e-4),
        **dict.fromkeys((*_COCO, *_PASCAL), Recipe(size=225, epochs=20, episodes=1000, batch=8, rate=5e-4)),
    },
    "full": {
        **dict.fromkeys(_COCO, Recipe(size=400, epochs=350, episodes=62040, batch=40, decay=False, dice=0.0)),
        **dict.fromkeys(_PASCAL, Recipe(size=400, epochs=350, episodes=11394, batch=20, decay=False, dice=0.0)),
    },
}


def recipe_for(budget: str, dataset: str) -> Recipe:
    """The preset for a budget on a data set.

    Raises:
        LlafsError: there is none.
    """
    if dataset not in RECIPES.get(budget, {}):
        known = ", ".join(f"{b} ({', '.join(RECIPES[b])})" for b in RECIPES)
        raise LlafsError(f"no recipe for budget={budget!r} on dataset={dataset!r}: there are {known}.")
    return RECIPES[budget][dataset]


Batch = Sequence[Tensor]


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
    epochs: int,
    checkpoint: Path,
    seed: int,
    facts: Mapping[str, str | int | float] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> History:
    """Train `model` in place with Adam, on a GPU if there is one, on several with `torchrun`.

    The model comes back to the device that it was on, so that it still fits what it was built with. Where TensorBoard
    is installed, losses and scores are logged beside the checkpoint.

    Args:
        loss_of: (model, batch) → scalar loss.
        samples_of: epoch number → the samples of that epoch; must depend on nothing else.
        checkpoint: written at the end of every epoch. If it is there already and was made with the same recipe, seed,
            `facts` and library, training goes on from it.
        validate: model → a score, the higher the better, asked after every epoch; the model ends with the weights of
            the best epoch. Never score on novel classes (spec §6.1): that is what held-out base classes are for.
    """
    key = json.dumps([asdict(recipe), epochs, seed, dict(facts or {}), library_digest()], sort_keys=True)
    accelerator = _accelerator(recipe, checkpoint)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=recipe.rate)
    history, best = _resume(checkpoint, key, model, optimizer)
    home = next(model.parameters()).device
    model.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for epoch in range(len(history.losses), epochs):
        loader = accelerator.prepare(_loader(samples_of(epoch), recipe.batch, seed * 100_003 + epoch))
        prepared.train()
        losses = []
        for step, batch in enumerate(track(loader, f"epoch {epoch + 1}/{epochs}", "step")):
            _set_rate(optimizer, recipe, (epoch + step / len(loader)) / epochs)
            with accelerator.autocast():
                loss = loss_of(prepared, batch)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach()).mean().item())
        history.losses.append(float(np.mean(losses)))
        if validate is not None:
            history.scores.append(validate(model.eval()))
            if history.best == epoch + 1:
                best = _copy_of(model)
        accelerator.log({"loss": history.losses[-1]} | ({"score": history.scores[-1]} if validate else {}), epoch + 1)
        if accelerator.is_main_process:
            _save(checkpoint, key, model, optimizer, history, best)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if best:
        model.load_state_dict(best)
    model.to(home).eval()
    return history


def _accelerator(recipe: Recipe, checkpoint: Path) -> Accelerator:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    # Unless told to use the CPU, accelerate takes two processes without a GPU for two runs of their own.
    options = {"cpu": not gpu, "mixed_precision": "bf16" if recipe.half and gpu else "no"}
    if importlib.util.find_spec("tensorboard") is None:
        return Accelerator(**options)
    accelerator = Accelerator(**options, log_with="tensorboard", project_dir=checkpoint.parent)
    accelerator.init_trackers(f"{checkpoint.stem}-log")
    return accelerator


def _loader(samples: Dataset, batch: int, seed: int) -> DataLoader:
    """An epoch's batches in an order that `seed` alone decides, however many processes share them."""
    torch.manual_seed(seed)  # for what the model itself draws, such as dropout
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    return DataLoader(samples, batch, sampler=order, drop_last=True)


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate * (0.5 * (1 + math.cos(math.pi * progress)) if recipe.decay else 1)


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _save(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: History,
    best: Mapping[str, Tensor],
) -> None:
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value.contiguous() for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    save_file(tensors, partial, {"key": key, "history": json.dumps(asdict(history))})
    os.replace(partial, path)


def _resume(
    path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[History, dict[str, Tensor]]:
    """Load the last finished epoch, if there is one of the same run; return its history and the best weights."""
    if not path.is_file():
        return History(), {}
    with safe_open(path, framework="pt") as file:
        if file.metadata()["key"] != key:
            return History(), {}
        history = History(**json.loads(file.metadata()["history"]))
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name in file.keys():
            group, _, rest = name.partition(".")
            groups[group][rest] = file.get_tensor(name)
    model.load_state_dict(groups["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["optimizer"].items():
        index, _, field_name = name.partition(".")
        state.setdefault(int(index), {})[field_name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    print(f"resumed after epoch {len(history.losses)} from {path.as_posix()}")
    return history, groups["best"]


class PixelLabels(Dataset):
    """Pictures with base-class label maps, mirrored at random, to train a backbone from scratch.

    Args:
        inputs: [N, 3, S, S] standardised; labels: [N, S, S] int64 with `IGNORE` where nothing is taught.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, seed: int):
        self.inputs, self.labels = inputs, labels
        self.mirrored = torch.rand(len(inputs), generator=torch.Generator().manual_seed(seed)) < 0.5

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inputs[index], self.labels[index]
        return (x.flip(-1), y.flip(-1)) if self.mirrored[index] else (x, y)


class PixelClassifier(nn.Module):
    """A backbone with a 1×1 classifier on each stride: its features learn to tell the base classes apart."""

    def __init__(self, backbone: Backbone, n_classes: int):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.LazyConv2d(n_classes, 1) for _ in backbone.levels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, S, S] → logits [B, classes, S/8, S/8]: the strides' logits, added up."""
        taps = self.backbone(x)
        last = [taps[sum(self.backbone.levels[: i + 1]) - 1] for i in range(3)]
        logits = [head(torch.relu(tap)) for head, tap in zip(self.heads, last, strict=True)]
        size = logits[0].shape[-2:]
        return sum(nn.functional.interpolate(x, size, mode="bilinear", align_corners=True) for x in logits)


def pixel_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of a `PixelClassifier` on (inputs, labels)."""
    inputs, labels = batch
    return cross_entropy(model(inputs), labels)


class EpisodeFeatures(Dataset):
    """One-shot episodes, read from features that are computed once: a frozen backbone never changes its mind.

    Args:
        episodes: what to ask.
        features: picture id → taps.
        mask_of: (picture id, class) → mask [S, S] int64 in {0, 1, IGNORE}.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        features: Mapping[int, list[Tensor]],
        mask_of: Callable[[int, str], Tensor],
    ):
        self.episodes, self.features, self.mask_of = episodes, features, mask_of

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        e = self.episodes[index]
        (support,) = e.support_ids
        support_mask = self.mask_of(support, e.class_name) == 1  # what is to be ignored is not shown either
        return self.features[e.query_id], self.features[support], support_mask, self.mask_of(e.query_id, e.class_name)


def hsnet_loss(levels: tuple[int, int, int], dice_weight: float) -> Callable[[nn.Module, Batch], Tensor]:
    """Cross-entropy + `dice_weight` × Dice of an `HSNetLearner`.

    Its batches are (query taps, support taps, support mask, query mask), as `EpisodeFeatures` gives them.
    """

    def loss(learner: nn.Module, batch: Batch) -> Tensor:
        query, support, support_mask, query_mask = batch
        logits = learner(Pairs(query, support, support_mask, levels))
        return cross_entropy(logits, query_mask) + dice_weight * dice(logits, query_mask)

    return loss


def encode_all(
    backbone: Backbone, image_ids: Sequence[int], read: Callable[[int], np.ndarray], size: int
) -> dict[int, list[Tensor]]:
    """The taps of many pictures, with a bar. `read` gives [H, W, 3] uint8."""
    fast = backbone.optimised()

    def taps(image_id: int) -> list[Tensor]:
        return [t.contiguous() for t in encode(fast, to_input(read(image_id), size))]  # quicker to batch

    return {i: taps(i) for i in track(image_ids, "features", "picture")}

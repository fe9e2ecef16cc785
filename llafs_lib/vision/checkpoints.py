"""Models and unfinished trainings in safetensors files, whose headers say what they are; and reading official files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llafs_lib.artifacts import replacing
from llafs_lib.errors import LlafsError

CLASSIFIER = ("fc.", "classifier.")  # a backbone's own classifier: official checkpoints hold it, HSNet never uses it


class CheckpointError(LlafsError):
    """A checkpoint that cannot be read or does not fit."""


def save_model(path: str | Path, model: nn.Module, kind: str, header: Mapping[str, Any]) -> None:
    """Write a model's weights to one file; `kind` and `header`, JSON values, travel with them."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, {kind: json.dumps(dict(header))})


def read_model(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the header that `save_model` wrote.

    Raises:
        CheckpointError: the file is missing, cut off, not of this library, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if kind not in facts:
                raise CheckpointError(f"{path} is no {kind} checkpoint of this library: {_found(facts)}.")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(facts[kind])
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is no {kind} checkpoint of this library ({error}).") from error


def _found(facts: Mapping[str, str]) -> str:
    return f"it holds {', '.join(sorted(facts))}" if facts else "its header names no model"


def fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load weights into a model; all names and shapes must agree.

    Raises:
        CheckpointError: they do not.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit: {error}") from error


def read_official(path: str | Path) -> Mapping[str, Tensor]:
    """The state dict in a file of the published code.

    Raises:
        CheckpointError: the file is cut off, or holds no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a truncated or foreign file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not the state dict of an HSNet.")
    return state


def check_official(module: nn.Module, state: Mapping[str, Tensor], complaint: str) -> None:
    """Names and shapes must agree, except for a backbone's classifier and its counters of batches.

    Raises:
        CheckpointError: they do not. The message begins with `complaint` and names the first parameter that differs.
    """
    expected = {n: v.shape for n, v in module.state_dict().items() if not n.startswith(CLASSIFIER)}
    found = {n: getattr(v, "shape", None) for n, v in state.items() if not n.startswith(CLASSIFIER)}
    for name in sorted(expected.keys() | found.keys()):
        if name.endswith("num_batches_tracked"):
            continue
        if expected.get(name) != found.get(name):
            there, wanted = (shapes.get(name) for shapes in (found, expected))
            raise CheckpointError(
                f"{complaint}: {name} is {tuple(there) if there is not None else 'missing'} in the file, "
                f"{tuple(wanted) if wanted is not None else 'unknown'} in the model."
            )


def save_training(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: Mapping[str, Any],
    best: Mapping[str, Tensor],
) -> None:
    """Write an unfinished training, whole or not at all.

    Args:
        key: says which training it is.
        history: JSON values.
        best: the weights of the best epoch so far.
    """
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value.contiguous() for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"key": key, "history": json.dumps(dict(history))})


def read_training(
    path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Bring the model and the optimizer to where `save_training` left them.

    Returns: the history and the best weights. Where there is no file, or the file is of another training, None, and
        nothing is changed.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        return None
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            for name in file.keys():
                group, _, rest = name.partition(".")
                groups.setdefault(group, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): remove it, and the training starts anew.") from error
    if facts.get("key") != key:
        return None
    model.load_state_dict(groups["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["optimizer"].items():
        index, _, field_name = name.partition(".")
        state.setdefault(int(index), {})[field_name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    history = json.loads(facts["history"])
    print(f"resumed after epoch {len(history['losses'])} from {path.as_posix()}")
    return history, groups["best"]

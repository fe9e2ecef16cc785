"""Models and unfinished trainings in safetensors files, whose headers say what they are; and reading official files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llafs_lib.artifacts import make_room, replacing
from llafs_lib.errors import LlafsError


def save_model(path: str | Path, model: nn.Module, kind: str, header: Mapping[str, Any]) -> None:
    """Write a model's weights to one file; `kind` and `header`, JSON values, travel with them."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    Path(path).write_bytes(save(state, {kind: json.dumps(dict(header))}))  # `save_file` lets nobody else read the file


def read_model(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the header that `save_model` wrote.

    Raises:
        LlafsError: the file is missing, cut off, not of this library, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if kind not in facts:
                found = ", ".join(sorted(facts)) or "no model"
                raise LlafsError(f"{path} is no {kind} checkpoint of this library: its header names {found}.")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(facts[kind])
    except (OSError, SafetensorError, ValueError) as error:
        raise LlafsError(f"{path} is no {kind} checkpoint of this library ({error}).") from error


def read_state(path: str | Path) -> Mapping[str, Tensor]:
    """The state dict in a file that `torch.save` wrote, such as those of torchvision and of the published code, or in a
    safetensors file.

    Raises:
        LlafsError: the file is missing or cut off, or holds no state dict.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a truncated or foreign file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LlafsError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, Mapping):
        raise LlafsError(f"{path} holds a {type(state).__name__}, not a state dict.")
    return state


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str, what: str) -> None:
    """Load weights into a model. All names and shapes must agree, or else nothing is changed.

    Args:
        source, what: where the weights are from and what they should be, for the error message.

    Raises:
        LlafsError: they do not agree. The message names the first parameter that differs.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | state.keys()):
        there, here = (list(getattr(s[name], "shape", ())) if name in s else "missing" for s in (state, own))
        if there != here:
            raise LlafsError(f"{source} does not hold {what}: {name} is {there} in it and {here} in the model.")
    model.load_state_dict(state)


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
    facts = {"key": key, "history": json.dumps(dict(history))}
    make_room(path)
    with replacing(path) as partial:
        partial.write_bytes(save(tensors, {**facts, "sha256": _digest(tensors, facts)}))


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_training(
    path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Bring the model and the optimizer to where `save_training` left them.

    Returns: the history and the best weights. Where there is no file, or the file is damaged or of another training,
        None, and nothing is changed.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if facts.get("key") == key else {}
    except (OSError, SafetensorError):
        facts, tensors = {"key": key}, {}
    if facts.get("key") != key:
        return None
    if facts.pop("sha256", "") != _digest(tensors, facts):
        print(f"note: {path.as_posix()} is damaged, so the training starts anew")
        return None
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    model.load_state_dict(groups["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["optimizer"].items():
        index, _, field_name = name.partition(".")
        state.setdefault(int(index), {})[field_name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    history = json.loads(facts["history"])
    print(f"resumed after epoch {len(history['losses'])} from {path.as_posix()}")
    return history, groups["best"]

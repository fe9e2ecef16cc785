"""A GPU for machines without one: what would break on a real GPU, because tensors of two devices meet, breaks here.

    with pretended_gpu(): HSNetSegmenter.from_file("hsnet.safetensors").segment(image, supports)

Meanwhile PyTorch says that there is a GPU. A tensor that is sent there keeps its values in the CPU's memory and its
arithmetic on the CPU, but it does not call itself a CPU tensor, refuses to meet one, and refuses `.numpy()`. Not
covered: several GPUs, autocast, kernels, the GPU's memory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import accelerate
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# "cuda" would start the driver. No tensor of the library lies on PyTorch's own device of this name.
DEVICE = torch.device("meta")
TRANSFERS = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
LOOKING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray)  # these do not ask the dispatcher where to put their result


class OnDevice(torch.Tensor):
    """A tensor that says that it lies on the device; `held` has its values."""

    @staticmethod
    def __new__(cls, held):
        how = {"strides": held.stride(), "dtype": held.dtype, "device": DEVICE}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.shape, **how)
        tensor.held = held
        return tensor

    def __repr__(self):
        return f"OnDevice({self.held})"

    def __deepcopy__(self, memo):
        copied = OnDevice(self.held.clone())
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return compute(function, arguments, options or {})


def over(change, value):
    """Change a value, or each in a list of them: operations take and return no deeper nesting."""
    if isinstance(value, list | tuple):
        return type(value)([change(v) for v in value]) if type(value) in (list, tuple) else tuple(map(change, value))
    return change(value)


def held(value):
    return value.held if isinstance(value, OnDevice) else value


def sent(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnDevice) else value


def tensors_in(values):
    flat = (v for value in values for v in (value if isinstance(value, list | tuple) else (value,)))
    return [v for v in flat if isinstance(v, torch.Tensor)]


def check_devices(name, arguments, options):
    """Raise what PyTorch raises where an operation is given tensors of two devices."""
    there, here = [], []
    for tensor in tensors_in([*arguments, *options.values()]):
        (there if isinstance(tensor, OnDevice) else here).append(tensor)
    assert all(t.device != DEVICE for t in here), f"{name}: PyTorch made a tensor on the device, and nobody saw it"
    if name in INDEXING:  # indices on the CPU may look into a tensor anywhere
        here = [] if isinstance(arguments[0], OnDevice) else [arguments[0]]
    if there and any(t.dim() for t in here):  # a number is welcome everywhere
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found cuda:0 and cpu.")


def compute(function, arguments, options):
    """One operation: with the values that are held, and its result where a GPU would leave it."""
    name = function._schema.name
    if name not in TRANSFERS:
        check_devices(name, arguments, options)
    asked = options.get("device")
    if asked is None:
        there = any(isinstance(t, OnDevice) for t in tensors_in([*arguments, *options.values()]))
    else:
        there, options = torch.device(asked) == DEVICE, options | {"device": torch.device("cpu")}
    found = function(*[over(held, a) for a in arguments], **{k: over(held, v) for k, v in options.items()})
    written = [a for a, s in zip(arguments, function._schema.arguments, strict=False) if s.is_write]
    if len(written) == 1 and isinstance(found, torch.Tensor):
        return written[0]  # an operation in place
    return over(sent, found) if there else found


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if OnDevice not in types and options.get("device") != DEVICE:
            return function(*arguments, **options)  # the CPU's own
        return compute(function, arguments, options)


def tensors_for(index):
    """An index whose lists are tensors, which PyTorch would otherwise make on the device unseen."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(part) if isinstance(part, list | tuple) else part for part in parts)


class _Names(TorchFunctionMode):
    """Reads "cuda" as the pretended device, before PyTorch looks for a driver."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        arguments = [self.read(a) for a in arguments]
        options = {name: self.read(value) for name, value in (options or {}).items()}
        if function in MAKERS and options.get("device") == DEVICE:
            return sent(function(*arguments, **options | {"device": torch.device("cpu")}))
        if function is torch.Tensor.new_tensor and isinstance(arguments[0], OnDevice):
            return sent(arguments[0].held.new_tensor(*arguments[1:], **options))
        if function in LOOKING and isinstance(arguments[0], OnDevice):
            arguments[1] = tensors_for(arguments[1])
        if function is torch.Tensor.cuda:
            return arguments[0].to(DEVICE)
        if function is torch.Tensor.tolist and isinstance(arguments[0], OnDevice):
            return arguments[0].detach().held.tolist()
        return function(*arguments, **options)

    @staticmethod
    def read(value):
        named = value.type if isinstance(value, torch.device) else value if isinstance(value, str) else ""
        return DEVICE if named.partition(":")[0] == "cuda" else value


def _enter_without_gradients(self):
    self.before = torch.is_grad_enabled()
    torch.set_grad_enabled(not self.mode)


def _restore_gradients(self, *_):
    torch.set_grad_enabled(self.before)


@contextmanager
def pretended_gpu():
    """A GPU is there, until the block ends."""
    inference = torch.inference_mode  # its tensors cannot be wrapped
    patches = [
        patch.object(torch.cuda, "is_available", lambda: True),
        patch.object(torch.cuda, "device_count", lambda: 1),
        patch.object(torch.cuda, "set_device", lambda device: None),
        patch.object(torch.cuda, "get_device_name", lambda *_: "a pretended GPU"),
        patch.object(torch.optim.Optimizer, "_cuda_graph_capture_health_check", lambda self: None, create=True),
        patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None, create=True),
        patch.object(inference, "__enter__", _enter_without_gradients),
        patch.object(inference, "__exit__", _restore_gradients),
    ]
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # it remembers a machine's devices
        stack.callback(accelerate.state.AcceleratorState._reset_state, reset_partial_state=True)
        torch.__future__.set_swap_module_params_on_conversion(True)  # `Module.to` keeps the parameters' identity
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.enter_context(_Operations())
        stack.enter_context(_Names())
        yield

"""A second device without hardware: tensors that say they are on CUDA, keep their numbers on the CPU, and refuse to meet CPU tensors
where CUDA tensors do. A mix of devices then fails here, and what was computed can be compared bit by bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda", 0)
_COPIES = ("aten::copy_", "aten::_to_copy", "aten::_local_scalar_dense")
"""What may read one device and write the other."""


class There(torch.Tensor):
    """A tensor on the second device, of the numbers `inner`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> There:
        out = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="meta",
            requires_grad=requires_grad,
        )
        out.inner = inner
        return out  # type: ignore[no-any-return]

    def __init__(self, *args: Any, **options: Any) -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.inner!r})"

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            out: torch.Tensor = There(self.inner.clone(), self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                out = torch.nn.Parameter(out, self.requires_grad)
            memo[id(self)] = out
        return memo[id(self)]  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, once its tensors are known to be on one device; its result where CUDA would have it."""
    name = func._schema.name
    tensors: list[torch.Tensor] = []
    tree_map(lambda a: tensors.append(a) if isinstance(a, torch.Tensor) else None, (args, kwargs))
    there = any(isinstance(a, There) for a in tensors)
    indexing = name.startswith(("aten::index", "aten::_index_put")) and isinstance(args[0], There)
    strangers = [a for a in tensors if not isinstance(a, There) and a.ndim]
    if there and strangers and name not in _COPIES and not (indexing and name in ("aten::index", "aten::index_put_")):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")
    target, kwargs = there, dict(kwargs)
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"]).type in ("cuda", "meta")
        kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
    elif name == "aten::copy_":
        target = isinstance(args[0], There)
    elif name == "aten::_to_copy":
        target = there
    out = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
    if out is None:
        return None
    if func._schema.is_mutable and name.endswith("_") and isinstance(out, torch.Tensor):
        same = isinstance(args[0], There) and args[0].inner.shape == args[0].shape
        return args[0] if same or not isinstance(args[0], There) else There(args[0].inner)
    return tree_map(lambda a: There(a) if isinstance(a, torch.Tensor) else a, out) if target else out


def _plain(a: Any) -> Any:
    return a.inner if isinstance(a, There) else a


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Numbered(TorchFunctionMode):
    """Every CUDA device has a number: without hardware torch cannot ask which one is current."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.new_tensor and isinstance(args[0], There):
            return There(args[0].inner.new_tensor(*args[1:], **kwargs))
        if func in (torch.tensor, torch.as_tensor) and _number(kwargs.get("device")) == CUDA:
            return There(func(*args, **{**kwargs, "device": "cpu"}))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], There):
            args = (args[0], _index(args[1]), *args[2:])
        return func(*tree_map(_number, args), **tree_map(_number, kwargs))


def _index(a: Any) -> Any:
    """An index whose lists are tensors: torch would make them itself, on the device that `There` is of underneath."""
    if isinstance(a, tuple):
        return tuple(_index(part) for part in a)
    return torch.tensor(a) if isinstance(a, list) else a


def _number(a: Any) -> Any:
    return CUDA if (isinstance(a, torch.device) and a.type == "cuda") or (isinstance(a, str) and a == "cuda") else a


_Generator = torch.Generator


_KEPT: list[torch.Generator] = []
"""Generators of classes of our own must outlive what torch returns of them."""


class FarGenerator(_Generator):
    """A generator that says where it is, and draws what one on the CPU draws."""

    def __new__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type == "cpu":
            return _Generator("cpu")
        out = _Generator.__new__(cls, "cpu")
        _KEPT.append(out)
        return out

    def __init__(self, device: Any = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA


def _without_gradients(mode: bool = True) -> Any:
    """Wrapped tensors have no inference mode."""
    return torch.no_grad() if mode else contextlib.nullcontext()


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Within it there is a CUDA device."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    names = ("_lazy_init", "is_available", "device_count")
    before = {name: getattr(torch.cuda, name) for name in names}
    torch.cuda._lazy_init = lambda: None  # type: ignore[assignment]
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.Generator = FarGenerator  # type: ignore[misc]
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else the numbers of a parameter stay behind
    inference, torch.inference_mode = torch.inference_mode, _without_gradients  # type: ignore[assignment]
    try:
        with _Dispatch(), _Numbered():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch.Generator, torch.inference_mode = _Generator, inference  # type: ignore[misc]
        for name, value in before.items():
            setattr(torch.cuda, name, value)
        _KEPT.clear()

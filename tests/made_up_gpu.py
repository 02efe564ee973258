"""A made-up GPU: what runs on it is computed on the CPU, but torch and the project take it for `cuda:0`.

Inside `MadeUpGpu()`, tensors can be made on a GPU where there is none. An operation that mixes them with tensors of the
CPU fails, as it does on a GPU; results are those of the CPU, bit for bit. What a GPU would have the host wait for is
counted: values that are read, copies that are not asynchronous, and shapes that depend on values. One thread does all
of it, and the order of the streams of a GPU is not seen.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from pipeline.training import prefetch

GPU = torch.device("cuda", 0)
_ATEN = torch.ops.aten
READS = {_ATEN._local_scalar_dense.default, _ATEN.equal.default, _ATEN.nonzero.default, _ATEN.masked_select.default}
INDEXED = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default}
MADE_BY_TORCH = {_ATEN.index_fill.int_Tensor, _ATEN.index_fill.int_Scalar}
"""In backward passes torch makes the places of these itself where the tensor is, which to its C++ is the CPU."""


class There(Tensor):
    """A tensor on the made-up GPU; `held` has its values. To the C++ of torch it is on the CPU."""

    held: Tensor
    device = property(lambda self: GPU)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, real: Tensor) -> "There":
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype
        )
        made.held = real
        return made

    def __repr__(self, **_: Any) -> str:
        return f"There({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            return args[0].to(args[1].device, args[1].dtype, *args[2:], **(kwargs or {}))
        if func is Tensor.cpu or (func is Tensor.to and _place(args[1:], kwargs or {}) == torch.device("cpu")):
            moved = _Back.apply(args[0])
            return moved if func is Tensor.cpu else moved.to(*args[1:], **(kwargs or {}))
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        with torch._C.DisableTorchFunctionSubclass():  # which would make a `There` of any result
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of a tensor of the made-up GPU, outside of it")


class _Back(torch.autograd.Function):
    """A copy to the CPU, which is waited for."""

    @staticmethod
    def forward(ctx: Any, there: Any) -> Tensor:
        MadeUpGpu.current.waits[f"copy back at {_place_in_code()}"] += 1
        held: Tensor = there.held
        return held.detach().clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return There(slope)


class MadeUpGpu(TorchDispatchMode):
    """See the module.

    Attributes:
        waits: how often the host would have waited, by operation and place in the code.
    """

    current: "MadeUpGpu"

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> "MadeUpGpu":
        MadeUpGpu.current = self
        self._patched = ExitStack()
        for owner, name, value in (
            # A `There` cannot be an inference tensor.
            (torch.inference_mode, "__enter__", torch.no_grad.__enter__),
            (torch.inference_mode, "__exit__", torch.no_grad.__exit__),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "get_device_name", lambda _: "made up"),
            (torch.cuda, "Stream", MagicMock()),
            (torch.cuda, "current_stream", MagicMock()),
            (torch.cuda, "stream", lambda _: nullcontext()),
            (torch.cuda, "Event", _Event),
            (torch.cuda, "synchronize", lambda *_: None),
            (Tensor, "pin_memory", lambda tensor: tensor),
            (Tensor, "is_pinned", lambda tensor: not isinstance(tensor, There)),
            (Tensor, "record_stream", lambda tensor, stream: None),
            (prefetch, "ahead", _one_after_another),
        ):
            self._patched.enter_context(patch.object(owner, name, value))
        swaps = torch.__future__.get_overwrite_module_params_on_conversion()
        self._patched.callback(torch.__future__.set_overwrite_module_params_on_conversion, swaps)
        # A `There` cannot take the memory of a parameter: `Module.to` makes new ones.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._patched.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` copies to the device after it has asked this mode
        torch._C._ensureCUDADeviceGuardSet()  # so that torch asks no driver
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patched.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        flat, spec = tree_flatten((tuple(args), dict(kwargs or {})))
        tensors = [each for each in flat if isinstance(each, Tensor)]
        there = [each for each in tensors if isinstance(each, There)]
        own = {id(each.held): each for each in there}
        reals = [each.held if isinstance(each, There) else each for each in flat]
        found_args, found_kwargs = tree_unflatten(reals, spec)
        to = found_kwargs.get("device")
        if to is not None:
            found_kwargs["device"] = torch.device("cpu")
        found_kwargs |= {"pin_memory": False} if found_kwargs.get("pin_memory") else {}
        self._check(func, tensors, there, found_args, found_kwargs, to)
        found = func(*found_args, **found_kwargs)
        stays = bool(there) if to is None else torch.device(to).type == GPU.type
        if not stays:
            return found
        return tree_map_only(Tensor, lambda held: own[id(held)] if id(held) in own else There(held), found)

    def _check(
        self, func: Any, tensors: list[Tensor], there: list[There], args: Any, kwargs: Mapping[str, Any], to: Any
    ) -> None:
        """Refuse a mixture of devices; count what would be waited for."""
        if func is _ATEN._to_copy.default:
            crosses = to is not None and bool(there) != (torch.device(to).type == GPU.type)
            waits = crosses and not kwargs.get("non_blocking")
        elif func is _ATEN.copy_.default:
            waits = 0 < len(there) < len(tensors) and not (len(args) > 2 and args[2])
        elif func in INDEXED and isinstance(tensors[0], There):  # places may be on the CPU: they are copied
            filled = func is not _ATEN.index.Tensor and args[2].numel() == 1  # a mask then fills
            places = [at for at in tensors[1:] if at.dim()]
            waits = any((at.dtype == torch.bool and not filled) or not isinstance(at, There) for at in places)
        elif there and func not in MADE_BY_TORCH and len(there) < len([each for each in tensors if each.dim()]):
            raise RuntimeError(f"{func}: tensors on cuda:0 and on the CPU, at {_place_in_code()}")
        else:
            waits = bool(there) and func in READS
        if waits:
            self.waits[f"{func} at {_place_in_code()}"] += 1


class _Event:
    def __init__(self, **_: bool):
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: "_Event") -> float:
        return 1.0


@contextmanager
def _one_after_another(items: Iterator[Any]) -> Iterator[Iterator[Any]]:
    yield items


def _place(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device that `Tensor.to` is asked for."""
    for each in (*args, kwargs.get("device")):
        if isinstance(each, str | torch.device):
            return torch.device(each)
    return None


def _place_in_code() -> str:
    frames = [frame for frame in traceback.extract_stack() if "/pipeline/" in frame.filename]
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[::-1][:3])

"""A device that stands in for a GPU: its tensors compute on the CPU, but are apart from the CPU's as a GPU's are.

It is a backend of torch as any other (PrivateUse1), so that autograd, optimizers and modules treat it as they do a
GPU. A tensor of the host beside one of the device is refused as CUDA refuses it. What is computed is real, so that
whole rounds run. A process that has it keeps it: `torch.accelerator` then names it. So tests run it in a process of its
own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._foreach_utils import _foreach_supported_types
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from benchmarks.operands import leaves, mapped

__all__ = ["DEVICE", "stand_in"]

NAME = "standin"


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, _Backend())
DEVICE = torch.device(NAME, 0)
_HOST = torch.device("cpu")


class Placed(Tensor):
    """A tensor of the device; `raw` are its values."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Placed:
        made: Placed = Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        # So that Module.to() swaps what a parameter holds: the parameter stays the same object, as on CUDA.
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> Placed:
        return Placed(inner["raw"])

    def tolist(self) -> Any:
        """torch reads no subclass; as on CUDA, the values come by way of the host."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


_foreach_supported_types.append(Placed)  # type: ignore[arg-type]


class _Factories(TorchDispatchMode):
    """Makes tensors on the device; what is there already dispatches by itself."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        wanted = kwargs.get("device")
        if any(issubclass(kind, Placed) for kind in types) or (wanted is not None and _is_device(wanted)):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


@contextlib.contextmanager
def stand_in() -> Iterator[torch.device]:
    """`DEVICE`, which tensors can be made on in here."""
    with _Factories():  # type: ignore[no-untyped-call]
        yield DEVICE


_MAY_MEET = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_", "is_same_size", "set_"}


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name not in _MAY_MEET:
        strangers = [leaf for leaf in given if not isinstance(leaf, Placed) and leaf.dim()]
        if strangers and len(strangers) < len(given):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} got one on cpu, {list(strangers[0].shape)}"
            )
    kernel = _KERNELS.get(name, func)
    out = kernel(*mapped(_raw, args), **mapped(_raw, kwargs))
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # sizes and strides of the outer tensor follow
            func(*args, **kwargs)
    to_host = kwargs.get("device") is not None and not _is_device(kwargs["device"])
    counts_versions = not any(leaf.is_inference() for leaf in given)
    # What an operator writes into is what it returns.
    known = {id(leaf.raw) if isinstance(leaf, Placed) else id(leaf): leaf for leaf in given}

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if func._schema.is_mutable and id(value) in known:
            return known[id(value)]
        if to_host:
            return value
        # A view shares its base's version counter, which a tensor made in inference mode has not.
        with torch.inference_mode(torch.is_inference_mode_enabled() and not (func.is_view and counts_versions)):
            return Placed(value)

    return mapped(placed, out)


def _raw(value: Any) -> Any:
    if isinstance(value, Placed):
        return value.raw
    return _HOST if isinstance(value, torch.device) and _is_device(value) else value


def _is_device(device: Any) -> bool:
    return torch.device(device).type == NAME


def _gru_cell(
    inputs: Tensor, hiddens: Tensor, hx: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """torch has this for GPUs only. The workspace is what backward needs: reset, update, new, hx, hidden's new."""
    inputs = inputs if input_bias is None else inputs + input_bias
    hiddens = hiddens if hidden_bias is None else hiddens + hidden_bias
    (ir, iz, new), (hr, hz, hn) = inputs.chunk(3, 1), hiddens.chunk(3, 1)
    reset, update = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    new = (new + reset * hn).tanh()
    return update * (hx - new) + new, torch.cat([reset, update, new, hx, hn], 1)


def _gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    reset, update, new, hx, hn = workspace.chunk(5, 1)
    grad_update = grad * (hx - new) * update * (1 - update)
    grad_new = grad * (1 - update) * (1 - new.square())
    grad_reset = grad_new * hn * reset * (1 - reset)
    inputs = torch.cat([grad_reset, grad_update, grad_new], 1)
    hiddens = torch.cat([grad_reset, grad_update, grad_new * reset], 1)
    biases = (inputs.sum(0), hiddens.sum(0)) if has_bias else (None, None)
    return (inputs, hiddens, grad * update, *biases)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """In place of the random state, which backward is given back, what dropout kept is told."""
    probability = _attended(query, key, attn_bias, scale)
    kept = (torch.rand_like(probability) >= dropout_p).to(probability) / (1 - dropout_p)
    none = query.new_empty(0)
    longest = query.shape[2], key.shape[2]
    return (probability * kept) @ value, none, none.clone(), none.clone(), *longest, kept, none.clone(), none.clone()


def _attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    grad_input_mask: list[bool],
    out: Tensor,
    *rest: Any,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    kept: Tensor = rest[7]
    probability = _attended(query, key, attn_bias, scale)
    weighed = grad @ value.mT * kept * probability
    logits = (weighed - probability * weighed.sum(-1, keepdim=True)) * _scale(query, scale)
    return logits @ key, logits.mT @ query, (probability * kept).mT @ grad, query.new_empty(0)


def _attended(query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    logits = query @ key.mT * _scale(query, scale)
    return torch.softmax(logits if bias is None else logits + bias, dim=-1)


def _scale(query: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


_KERNELS = {
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
}
"""What is one kernel on a GPU, and many operators on a CPU."""


def _one_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As CUDA's: a mask becomes a bias, then one kernel."""
    if is_causal or enable_gqa:
        raise NotImplementedError("the stand-in's attention takes neither is_causal nor enable_gqa")
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        shut = torch.scalar_tensor(-math.inf, dtype=query.dtype, device=query.device)
        attn_mask = torch.where(attn_mask, torch.scalar_tensor(0.0, dtype=query.dtype, device=query.device), shut)
    made: Tensor = torch.ops.aten._scaled_dot_product_fused_attention_overrideable(
        query, key, value, attn_mask, dropout_p, scale=scale
    )[0]
    return made


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("scaled_dot_product_attention", _one_attention, "AutogradPrivateUse1")
_LIBRARY.impl("scaled_dot_product_attention", _one_attention, "PrivateUse1")

_LOWER = (
    "_convolution",
    "addbmm",
    "addmm",
    "baddbmm",
    "bmm",
    "convolution",
    "linear",
    "matmul",
    "mm",
    "scaled_dot_product_attention",
    "_thnn_fused_gru_cell",
)
_HIGHER = ("cross_entropy_loss", "exp", "layer_norm", "log", "log_softmax.int", "mse_loss", "softmax.int", "sum")
"""As CUDA's autocast has them, of what encoders and losses use. CUDA keeps a weight's cast until the region ends; here
it is cast for each use, so that counts are at least CUDA's."""
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]


def _cast_by(name: str, wanted: torch.dtype) -> Any:
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    among = (torch.bfloat16, torch.float32)

    def cast(value: Any) -> Any:
        is_ours = isinstance(value, Tensor) and value.device.type == NAME and value.dtype in among
        return value.to(wanted) if is_ours and value.dtype is not wanted else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*mapped(cast, args), **mapped(cast, kwargs))

    return kernel


_OTHERS = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_OTHERS.fallback(torch.library.fallthrough_kernel)
for _names, _dtype in ((_LOWER, torch.bfloat16), (_HIGHER, torch.float32)):
    for _name in _names:
        _LIBRARY.impl(_name, _cast_by(_name, _dtype), "AutocastPrivateUse1")

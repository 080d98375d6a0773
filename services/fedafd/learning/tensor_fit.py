"""Give a module its tensors, all of them and no other, or name the one that does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fedafd.domain.errors import DataError

__all__ = ["load_fitting"]


def load_fitting(module: nn.Module, tensors: Mapping[str, Tensor], source: str, *, apart: tuple[str, ...] = ()) -> None:
    """Copy `tensors` into `module`; those whose names start with one of `apart` come from elsewhere.

    Raises DataError naming `source` and the first tensor that is missing, unknown or of another shape.
    """
    wanted = {name: value for name, value in module.state_dict().items() if not name.startswith(apart or ("\0",))}
    problems = [
        *(f"tensor {name!r} is missing" for name in wanted if name not in tensors),
        *(f"tensor {name!r} is not of this model" for name in tensors if name not in wanted),
        *(
            f"tensor {name!r} has shape {list(tensors[name].shape)}, and the configuration makes {list(value.shape)}"
            for name, value in wanted.items()
            if name in tensors and tensors[name].shape != value.shape
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{source}: {problems[0]}{more}; the file belongs to another model or version")
    module.load_state_dict(dict(tensors), strict=False)

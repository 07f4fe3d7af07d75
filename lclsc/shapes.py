"""How the package's value types print: shapes, never pixels."""

import dataclasses
from typing import Any

from torch import Tensor


def shape_repr(value: Any) -> str:
    """``View(image=float32[8, 1, 96, 96], ...)`` for a dataclass that holds tensors."""
    fields = (f"{field.name}={_brief(getattr(value, field.name))}" for field in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(fields)})"


def _brief(item: object) -> str:
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')}{list(item.shape)}"
    return repr(item)

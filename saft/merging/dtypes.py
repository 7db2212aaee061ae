"""The data types that a merge can be computed and written in, by the names that its file has for them."""

from __future__ import annotations

import torch

__all__ = ["ARITHMETIC", "DTYPES"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
ARITHMETIC = {name: DTYPES[name] for name in ("float32", "float64")}

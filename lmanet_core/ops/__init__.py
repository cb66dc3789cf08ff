"""The local-attention operator: one function, several implementations that agree."""

from lmanet_core.ops.api import (
    Border,
    SoftmaxScope,
    attention_weights,
    auto_implementation,
    available_implementations,
    local_attention,
)

__all__ = [
    "Border",
    "SoftmaxScope",
    "attention_weights",
    "auto_implementation",
    "available_implementations",
    "local_attention",
]

"""Batched generation for rollouts, evaluation and `ask` (paper §5.2).

The names are loaded when they are asked for: what needs no engine, as the router, starts without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open4ov.engine.generate import Engine
    from open4ov.engine.request import Completion, Request
    from open4ov.engine.vision_cache import VisionCache

__all__ = ["Completion", "Engine", "Request", "VisionCache"]
_FROM = {"Completion": "request", "Engine": "generate", "Request": "request", "VisionCache": "vision_cache"}


def __getattr__(name: str) -> object:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    return value

"""Batched generation for rollouts, evaluation and `ask` (paper §5.2)."""

from open4ov.engine.generate import Engine
from open4ov.engine.request import Completion, Request

__all__ = ["Completion", "Engine", "Request"]

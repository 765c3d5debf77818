"""Batched generation for rollouts, evaluation and `ask` (paper §5.2)."""

from open4ov.engine.generate import Engine
from open4ov.engine.request import Completion, Request
from open4ov.engine.vision_cache import VisionCache

__all__ = ["Completion", "Engine", "Request", "VisionCache"]

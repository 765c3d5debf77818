"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Hands freed memory back. Packs differ in size, and glibc keeps what does not fit the next one: without this a
    training of a few minutes grows by gigabytes. Nothing happens where the C library has no `malloc_trim`."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function(0)


def free_card() -> None:
    """Hands back what PyTorch keeps of a GPU's freed memory: to other processes, and as one piece to who comes next."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

"""What made a run: the recipe as it was read, versions, machine and commit, for run.json."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from open4ov.commit import commit
from open4ov.recipe import Recipe


def about(recipe: Recipe) -> dict[str, Any]:
    facts = {"versions": _versions(), "machine": _machine(), "commit": commit()}
    return {"recipe": recipe.model_dump(mode="json"), **facts}


@cache
def _versions() -> dict[str, str]:
    packages = ("open4ov", "torch", "numpy", "pillow", "pydantic", "pyarrow", "safetensors", "tokenizers")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": _proc("/proc/meminfo", "MemTotal"),
    }


def _proc(file: str, key: str) -> str | None:
    """The value of `key : value` in a file of /proc; None on systems without it."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def in_words(command: str) -> str:
    """The command that measured something, and machine, versions and commit, as lines of Markdown."""
    machine, versions = _machine(), _versions()
    cpu, cores, memory = machine["cpu"], machine["cores"], machine["memory"] or "memory unknown"
    told = ", ".join(f"{name} {versions[name]}" for name in ("python", "open4ov", "torch"))
    return (
        f"- command: `{command}`\n- machine: {cpu}, {cores} cores, {memory}; {told}\n- commit: {commit() or 'none'}\n"
    )

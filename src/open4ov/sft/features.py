"""Features of pictures from a frozen tower: in memory as long as there is room, then on disk, mapped when read.

What is on disk lies in files of a chunk each (safetensors), which are opened for each picture that is asked for: the
system keeps what is read often in its own cache, and drops it when memory is short.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from open4ov.model import VisionFeatures
from open4ov.store import atomic


class Features:
    """`held_bytes`: most memory; `disk_bytes`: most room in `folder`, which is the store's own (None: there is none).
    Both are kept to within one chunk."""

    def __init__(self, held_bytes: int, folder: Path | None = None, disk_bytes: int = 0) -> None:
        self.held_bytes, self.folder, self.disk_bytes = held_bytes, folder, disk_bytes if folder else 0
        self._held: dict[str, VisionFeatures] = {}
        self._files: dict[str, tuple[Path, int]] = {}
        self.in_memory = self.on_disk = 0

    @property
    def full(self) -> bool:
        """No more can be kept."""
        return self.in_memory >= self.held_bytes and self.on_disk >= self.disk_bytes

    def __contains__(self, name: object) -> bool:
        return name in self._held or name in self._files

    def put(self, chunk: Mapping[str, VisionFeatures]) -> None:
        """Keeps the features of some pictures. Raises OSError when they cannot be written."""
        size = sum(features.nbytes for features in chunk.values())
        if self.in_memory < self.held_bytes or not self.folder:
            self._held |= chunk
            self.in_memory += size
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{len({file for file, _ in self._files.values()}):08}.safetensors"
        tensors = {
            f"{number}.{part}": tensor.contiguous().cpu()
            for number, features in enumerate(chunk.values())
            for part, tensor in enumerate((features.merged, *features.deepstack))
        }
        with atomic(path) as temporary:
            save_file(tensors, temporary)
        self._files |= {name: (path, number) for number, name in enumerate(chunk)}
        self.on_disk += size

    def get(self, name: str, device: torch.device | str = "cpu") -> VisionFeatures:
        """Raises KeyError for a picture that is not there."""
        if name in self._held:
            return self._held[name]
        path, number = self._files[name]
        parts: list[Tensor] = []
        with safe_open(path, "pt") as file:
            there = set(file.keys())
            while (key := f"{number}.{len(parts)}") in there:
                parts.append(file.get_tensor(key).to(device))
        return VisionFeatures(parts[0], parts[1:])

    def clear(self) -> None:
        """Nothing is kept any more, in the folder neither."""
        self._held, self._files, self.in_memory, self.on_disk = {}, {}, 0, 0
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

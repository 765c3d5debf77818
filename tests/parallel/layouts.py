"""Axes without a mesh, for tests of what lies on them."""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Of:
    """The axis `tp` is that group; there is no other."""

    tp: ProcessGroup

    def size(self, axis: str) -> int:
        return self.tp.size() if axis in ("tp", "seq") else 1

    def rank(self, axis: str) -> int:
        return self.tp.rank() if axis in ("tp", "seq") else 0

    def group(self, axis: str) -> ProcessGroup | None:
        return self.tp if axis in ("tp", "seq") else None


@dataclass(frozen=True)
class Sized:
    """Sizes and ranks of cp and tp, without processes."""

    cp: int
    tp: int
    at: int

    def size(self, axis: str) -> int:
        return {"cp": self.cp, "tp": self.tp, "seq": self.cp * self.tp}.get(axis, 1)

    def rank(self, axis: str) -> int:
        return {"cp": self.at // self.tp, "tp": self.at % self.tp, "seq": self.at}.get(axis, 0)

    def group(self, axis: str) -> ProcessGroup | None:
        return None

"""Devices and links that the planner knows: `hardware.yaml`, or a file of one's own in its form."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import Field, ValidationError

from open4ov.errors import UserError, nearest
from open4ov.recipe_section import Section

FILE = Path(__file__).with_name("hardware.yaml")
"""The file that ships"""


class Efficiency(Section):
    """Share of the peak that a kind of work reaches, from 0 to 1."""

    dense: float = Field(gt=0, le=1)
    experts: float = Field(gt=0, le=1)
    attention: float = Field(gt=0, le=1)
    head: float = Field(gt=0, le=1)
    vision: float = Field(gt=0, le=1)


class Hardware(Section):
    """One kind of device in its machine. GB and GB/s are 10^9 bytes, TFLOP/s 10^12 operations."""

    name: str
    device: Literal["cuda", "cpu"] = "cuda"
    memory: float = Field(gt=0, description="GB of a device")
    peak: float = Field(gt=0, description="TFLOP/s, dense bf16 (on a CPU: of one process, in the precision measured)")
    bandwidth: float = Field(gt=0, description="GB/s of the device's memory")
    node: int = Field(ge=1, description="devices of one machine")
    inside: float = Field(gt=0, description="GB/s, one way, of a device to others of its node")
    outside: float = Field(gt=0, description="GB/s, one way, of a device beyond its node")
    link_share: float = Field(gt=0, le=1, description="what collectives reach of a link")
    host: float = Field(ge=0, description="GB on the device for the process itself")
    fragments: float = Field(ge=0, lt=1, description="share of what is used that the allocator loses")
    efficiency: Efficiency
    measured: str = Field(min_length=1, description="where the efficiencies are from")
    sources: list[str] = Field(min_length=1)

    def local(self, ranks: int, stride: int) -> bool:
        """Whether a group of `ranks` that lie `stride` apart in the world's order lies within one node."""
        return ranks * stride <= self.node


def find(name: str, file: Path | None = None) -> Hardware:
    """The device of that name, in the file that ships or in one's own. Raises UserError for an unknown name, and for a
    file that is none."""
    path = file or FILE
    known = _read(path)
    wanted = name.lower()
    if wanted not in known:
        raise UserError(f"--hardware {name}: {path.name} has no such device{nearest(wanted, known)}")
    try:
        return Hardware.model_validate(known[wanted])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (wanted, *first["loc"])))
        raise UserError(f"{path}: {place}: {first['msg']}") from None


def names(file: Path | None = None) -> list[str]:
    """What `find` knows."""
    return sorted(_read(file or FILE))


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        found: object = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a YAML file in the form of {FILE.name}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a table of devices by name")
    return cast("dict[str, Any]", found)

"""A plan as sections of a recipe: `parallel`, and the options of `sft` that it takes for granted.

A recipe that is there keeps its other lines and their comments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

from open4ov.errors import UserError
from open4ov.store import atomic

from .plan_search import Plan


def sections(plan: Plan) -> dict[str, Any]:
    """What the recipe has to say for it; what is the default is left out."""
    options, job, mesh = plan.setup.options, plan.setup.job, plan.setup.mesh
    parallel: dict[str, Any] = {
        axis: mesh.size(axis)
        for axis in ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep")
        if mesh.size(axis) > 1 or axis == "dp_shard"
    }
    if mesh.pp > 1:
        parallel["schedule"] = options.schedule
    found: dict[str, Any] = {"parallel": parallel}
    if job.kind == "sft":
        sft: dict[str, Any] = {"pack_tokens": job.work.tokens, "accumulate": job.packs}
        if job.recompute != "none":
            sft["recompute"] = job.recompute
        if job.recompute_vision != "none" and not job.frozen_vision:
            sft["recompute_vision"] = job.recompute_vision
        found["sft"] = sft
    return found


def write(plan: Plan, path: Path) -> None:
    """Writes the sections into a recipe, or into a new file. Raises UserError for a file that is not laid out in block
    style, two spaces deep, as the recipes that ship are."""
    lines = path.read_text().splitlines() if path.exists() else []
    before = cast("dict[str, Any]", yaml.safe_load("\n".join(lines)) or {})
    wanted = sections(plan)
    for name, options in wanted.items():
        lines = _laid(lines, name, options, whole=name == "parallel")
    text = "\n".join(lines) + "\n"
    expected = {**before, "parallel": wanted["parallel"]}
    if "sft" in wanted:
        expected["sft"] = {**(before.get("sft") or {}), **wanted["sft"]}
    try:
        found: object = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if found != expected:
        raise UserError(
            f"{path}: its sections are not laid out line by line, two spaces deep; write these in by hand:\n"
            + yaml.safe_dump(wanted, sort_keys=False)
        )
    with atomic(path) as place:
        place.write_text(text)


def _laid(lines: list[str], name: str, options: dict[str, Any], whole: bool) -> list[str]:
    """The lines with that section in them. whole: it has no other options; else those that are there stay."""
    start = next((at for at, line in enumerate(lines) if line.split("#")[0].rstrip() == f"{name}:"), None)
    own = [f"  {key}: {value}" for key, value in options.items()]
    if start is None:
        return [*lines, *([""] if lines else []), f"{name}:", *own]
    end = start + 1
    while end < len(lines) and (lines[end].startswith((" ", "#")) or not lines[end].strip()):
        end += 1
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1  # what stands before the next section is that one's
    kept = [] if whole else [line for line in lines[start + 1 : end] if line.split(":")[0].strip() not in options]
    return [*lines[: start + 1], *own, *kept, *lines[end:]]

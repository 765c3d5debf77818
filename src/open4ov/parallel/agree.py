"""All ranks must train the same: recipe, code and files are compared before anything is trained.

Each rank brings facts, a text for each name. Digests of all of them are compared first, and only where these differ the
facts themselves: so 512 ranks exchange 32 KB.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import open4ov
from open4ov.errors import UserError
from open4ov.parallel.launch import World, ranks
from open4ov.recipe import Recipe
from open4ov.run_dir import fingerprint, hash_json
from open4ov.yaml_file import dotted

Facts = Mapping[str, str]


def facts(recipe: Recipe) -> dict[str, str]:
    """What every rank must have alike from the start: each option of the recipe, the code, and the version of what
    computes."""
    import torch

    found = {f"recipe: {key}": value for key, value in _flat(recipe.model_dump(mode="json"))}
    found |= {"code of open4ov": code(), "version of torch": torch.__version__}
    return found


def files(*places: str | Path) -> dict[str, str]:
    """What every rank must read alike: digests of the bytes of these files, and of those right in these folders. They
    may have been copied to a machine at another time."""
    found: dict[str, str] = {}
    for place in map(Path, places):
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            if path.is_file():
                with path.open("rb") as file:
                    found[f"file: {path.parent.name}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@cache
def code() -> str:
    """A digest of this package's own code."""
    root = Path(open4ov.__file__).parent
    return fingerprint(root.rglob("*.py"), root)


def agree(world: World, mine: Facts, what: str = "start") -> None:
    """Returns when all ranks have the same facts; every rank calls it, with the same `what` (once for each).

    Raises UserError, on all ranks alike, that says what differs and on which of them.
    """
    store, mark = world.store, f"agree/{what}"
    store.set(f"{mark}/facts/{world.rank}", json.dumps(mine))
    store.set(f"{mark}/digest/{world.rank}", hash_json(mine))
    if not world.leads:
        verdict = _await(world, f"{mark}/verdict")
    else:
        digests = [_await(world, f"{mark}/digest/{rank}") for rank in range(world.size)]
        differ = len(set(digests)) > 1
        all_facts = [json.loads(_await(world, f"{mark}/facts/{rank}")) for rank in range(world.size)] if differ else []
        verdict = differences(all_facts)
        store.set(f"{mark}/verdict", verdict)
    if verdict:
        raise UserError(verdict)


def differences(all_facts: list[dict[str, str]], most: int = 8) -> str:
    """One line for each fact in which a rank differs from most others; empty when there is none."""
    lines: list[str] = []
    for key in dict.fromkeys(key for own in all_facts for key in own):
        values = [own.get(key, "nothing") for own in all_facts]
        if len(set(values)) == 1:
            continue
        counted = Counter(values).most_common()
        if counted[0][1] == counted[1][1]:  # no majority: rank 0's counts
            counted.sort(key=lambda item: item[0] != values[0])
        usual = counted[0][0]
        others = [value for value, _ in counted if value != usual]
        told = [f"{_short(v)} on {ranks([r for r, own in enumerate(values) if own == v])}" for v in others]
        lines.append(f"  {key}: {', '.join(told)}; {_short(usual)} on the others")
    if not lines:
        return ""
    more = [f"  and {len(lines) - most} more"] if len(lines) > most else []
    text = "\n".join(["the ranks were not given the same:", *lines[:most], *more])
    return f"{text}\nstart all of them with the same command, code and files"


def _await(world: World, key: str) -> str:
    """A key's value once it is there. A rank that dies meanwhile is found by the watch."""
    until = time.monotonic() + world.timeout
    while not world.store.check([key]):
        if time.monotonic() > until:
            raise UserError(f"{key} did not come within {world.timeout:g} s (parallel.timeout)")
        time.sleep(0.01)
    return world.store.get(key).decode()


def _flat(value: object, place: tuple[str | int, ...] = ()) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in cast("dict[str, object]", value).items():
            yield from _flat(below, (*place, key))
    else:
        yield dotted(place), json.dumps(value, ensure_ascii=False)


def _short(value: str, most: int = 60) -> str:
    return value[:12] if len(value) == 64 else value if len(value) <= most else value[: most - 3] + "..."

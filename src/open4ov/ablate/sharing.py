"""What other runs have made already: a stage that is finished elsewhere under the very key that it would have here.

Keys decide, nothing else: no list says which arms share what, and a folder of another version, recipe or seed never
fits. Files are linked, so that a shared model takes no room twice; a stage never writes into a finished one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from open4ov import pipeline
from open4ov.about import about
from open4ov.graph import Graph, Stage
from open4ov.recipe import Recipe
from open4ov.run_dir import Place, locked, writing
from open4ov.store import link, sweep, write_json

LINKED = ".linked"
"""Of a stage's folder while it is being linked, in .work"""


def adopt(graph: Graph, recipe: Recipe, root: Path, donors: Iterable[Path], until: str) -> list[str]:
    """Links into the run directory `root` every stage up to `until` that is not finished there and is in one of
    `donors`, inputs first; gives their names. What is finished stays.

    Raises UserError when `root` holds something else or is in use, or cannot be written.
    """
    others = [donor for donor in donors if donor != root and (donor / "run.json").exists()]
    if not others:
        return []
    with writing(root):
        pipeline.claim(recipe, root)
        with locked(root):
            if not (root / "run.json").exists():
                write_json(root / "run.json", about(recipe))
            sweep(root)
            return list(_adopted(graph, graph.needed(until), recipe, root, others))


def _adopted(
    graph: Graph, stages: Sequence[Stage], recipe: Recipe, root: Path, donors: Sequence[Path]
) -> Iterable[str]:
    there: set[str] = set()
    pictures: set[Path] = set()
    for stage in stages:
        if not there.issuperset(stage.inputs):
            continue
        place, key = Place(root, stage.name), graph.key(stage, recipe, root)
        place.recover()
        if not place.intact(key):
            donor = next((one for one in donors if Place(one, stage.name).intact(key)), None)
            if donor is None:
                continue
            if donor not in pictures:  # before any stage that names them
                _link_all(donor / "image-store", root / "image-store")
                pictures.add(donor)
            _link_stage(donor, root, stage.name)
            yield stage.name
        there.add(stage.name)


def _link_stage(donor: Path, root: Path, name: str) -> None:
    """The whole folder, or none of it: made in .work and renamed."""
    made = root / ".work" / f"{name}{LINKED}"
    shutil.rmtree(made, ignore_errors=True)
    _link_all(donor / name, made)
    place = Place(root, name)
    if place.final.exists():  # of other options
        shutil.rmtree(place.final)
    made.rename(place.final)


def _link_all(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        if path.is_file() and not path.name.startswith(".part-"):
            link(path, target / path.relative_to(source))


def begun(root: Path) -> list[Path]:
    """The run directories in a folder of them."""
    return sorted(path.parent for path in root.glob("*/run.json"))

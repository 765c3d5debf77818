"""`open4ov admit balance`: a set whose labels have the shares that were asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from open4ov.errors import UserError
from open4ov.sample import Sample
from open4ov.store import ImageError, ImageStore, iter_samples, link

if TYPE_CHECKING:
    from PIL import Image

    from open4ov.data.topics import Topic
    from open4ov.recipe_balance import BalanceSection
    from open4ov.recipe_labels import LabelsSection


def balance(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="imports, run directories, or samples.parquet files")
    ],
    out: Annotated[Path, typer.Option(help="a new folder for the balanced set, its figures and feedback.yaml")],
    recipe: Annotated[
        Path | None, typer.Option(help="whose admission.balance, data.labels and seed count; defaults, if not given")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    json_: Annotated[bool, typer.Option("--json", help="the figures as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Balance samples over both label axes, and look for latent classes that the labels hide.

    Scarce labels go into feedback.yaml, which data construction reads (data.feedback).
    """
    from open4ov.progress import Quiet, Terminal
    from open4ov.report.balance_page import verdict
    from open4ov.run_dir import beside
    from open4ov.stages.balance import balanced
    from open4ov.store import write_samples

    section, labels, seed = _options(recipe, set_ or ())
    given = _read(data)

    reporter = Quiet() if quiet or json_ else Terminal()
    reporter.started("balance", 1, 1)
    with beside(out) as folder, closing(reporter):
        tell = partial(reporter.progress, "balance")
        found = balanced(given.samples, section, folder, given.picture, seed, labels, given.topics, tell)
        write_samples(folder / "samples.parquet", given.placed(found.samples, ImageStore(folder / "image-store")))
    figures = found.figures
    if json_:
        print(json.dumps(figures, ensure_ascii=False))
        return
    told = figures["samples"]
    if given.again:
        print(f"{given.again} samples were given twice and taken once")
    print(f"{told['drawn']} samples of {told['training']} ({told['different']} different), {told['left_out']} left out")
    for axis, part in figures["axes"].items():
        before, after = part["before"], part["after"]
        loose = f"; {part['unlabelled']} without a label" if part["unlabelled"] else ""
        print(f"{axis}: Gini {before['gini']:.3f} -> {after['gini']:.3f}, {after['classes']} labels{loose}")
    for kind, part in figures.get("latent", {}).items():
        print(f"{kind}: {verdict(part)}")
    for one in found.shortfalls:
        why = "scarce" if one.scarce else "short for want of other labels with it"
        print(f"{why}: {one.axis} {one.label}: {one.got} of {one.target}, {one.have} different samples")
    print(f"look at {out / 'balance.html'}" + (f"; wishes: {out / 'feedback.yaml'}" if found.shortfalls else ""))


@dataclass(frozen=True)
class _Given:
    """What was named: samples, each id once (`again`: how many came twice), where their pictures lie, and topics."""

    samples: list[Sample]
    again: int
    stores: list[ImageStore]
    topics: list[Topic]

    def picture(self, sha: str) -> Image.Image:
        return self._store(sha).get(sha)

    def placed(self, samples: Iterable[Sample], new: ImageStore) -> Iterator[Sample]:
        """The samples, their pictures linked into a store beside them (copied where the file system has no links)."""
        for sample in samples:
            for sha in sample.images:
                link(self._store(sha).path(sha), new.path(sha))
            yield sample

    def _store(self, sha: str) -> ImageStore:
        found = next((store for store in self.stores if store.path(sha).is_file()), None)
        if found is None:
            places = ", ".join(str(store.root) for store in self.stores)
            raise ImageError(f"the picture {sha} of a sample is missing ({places}); the set is incomplete")
        return found


def _options(recipe: Path | None, overrides: Sequence[str]) -> tuple[BalanceSection, str | LabelsSection | None, int]:
    """The section, the label tree's file, and the seed."""
    from open4ov.recipe import load
    from open4ov.recipe_balance import BalanceSection

    if recipe is None:
        if overrides:
            raise UserError("--set overrides options of a recipe; give --recipe too")
        return BalanceSection(samples="as_many"), None, 0
    chosen = load(recipe, overrides)
    section = chosen.admission.balance
    if section.samples == 0:
        raise UserError(
            f"{recipe}: admission.balance.samples is 0, which asks for no balancing; set it to a number or to as_many"
        )
    return section, chosen.data.labels, chosen.seed


def _read(data: Sequence[Path]) -> _Given:
    from open4ov.data import topics
    from open4ov.formats.convert import located

    found: dict[str, Sample] = {}
    total = 0
    stores: list[ImageStore] = []
    known: list[Topic] = []
    for path in data:
        file, store = located(path)
        for sample in iter_samples(file):
            total += 1
            found.setdefault(sample.id, sample)
        stores.append(store)
        if (beside := file.parent / "topics.parquet").is_file():
            known += topics.read(beside)
    return _Given(list(found.values()), total - len(found), stores, list(dict.fromkeys(known)))

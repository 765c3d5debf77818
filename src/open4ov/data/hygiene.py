"""The hygiene of data construction: what `data.hygiene` of the recipe asks for.

    images → licences → personal data (annotations, burned-in text) → near-duplicates → decontamination → ...
    samples → personal data (texts) → near-duplicate questions → decontamination → votes ... → grouped splits
    general set → all of these

What falls out is listed with its reason: an image in report.json, a sample in rejected.parquet, one of the general set
in general_rejected.parquet. Everything is off until the recipe asks for it; then report.json has a part `hygiene` with
counts and all evidence, and in it a part `general` with those of the general set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from open4ov.data import dedup, grouping, hashing, picture_table, splits
from open4ov.data.decontaminate import Benchmarks
from open4ov.data.hygiene_pictures import Fallen, Gone, Looked, Named, PictureSteps, Tell
from open4ov.data.hygiene_texts import TextSteps, as_rejected
from open4ov.data.picture_table import Pictures
from open4ov.data.working import Counts, tally
from open4ov.functions import function
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample
from open4ov.store import ImageStore

Dropped = list[dict[str, str]]
_TOGETHER = 8  # bits within which images lie on one side of a split when the recipe names no radius


class Hygiene:
    """One run's hygiene. `report` fills as its steps are called, and stays empty when nothing is asked for.

    `look` and `samples` may be called chunk by chunk, also by several objects whose reports are merged; `choose` sees
    all images at once, and of each only a few numbers.
    """

    def __init__(
        self, section: HygieneSection, store: ImageStore, seed: int, tell: Tell, benchmarks: Benchmarks | None = None
    ) -> None:
        self._section, self._store, self._seed, self._tell = section, store, seed, tell
        self._benchmarks = benchmarks or read_benchmarks(section)
        self._shown: list[Pictures] = []
        """Of the images that stay, and of the general set"""
        self._clusters: dict[str, str] | None = None
        self.report: Counts = {}
        if self._benchmarks:
            counts, faults = self._benchmarks.counts, self._benchmarks.faults
            self.report["decontamination"] = {**counts, "unreadable": faults, "images": [], "questions": []}
        self._pictures = PictureSteps(section, store, self._benchmarks, tell, self.report, "images_dropped")
        self._texts = TextSteps(section, self._benchmarks, self.report)
        self._early: list[Sample] = []

    @property
    def asked(self) -> bool:
        """Whether the recipe asks for anything."""
        return self._section != HygieneSection()

    @property
    def compares(self) -> bool:
        """Whether images are compared with each other or with evaluation sets."""
        return self._pictures.compares

    def images(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        """The images that stay, cleaned; those that do not are added to `skipped`, but for conversations that go for
        their texts, which `samples` gives back with the others. All in memory at once."""
        images, early = self.told(images)
        self._early += early
        kept, gone, left = self._pictures.run(images)
        skipped += map(entry, gone)
        self._remember(left)
        return kept

    def told(self, images: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Conversations that came whole, by their texts, before a model reads them: (all images but those that go,
        those that go with `extra["rejected_by"]`)."""
        told, gone = [image for image in images if image.messages], list[Sample]()
        for step in (self._texts.without_personal_data, self._texts.unasked) if told else ():
            told, dropped = step(told)
            gone += dropped
        stay = {sample.id: sample for sample in told}
        return [stay.get(one.id, one) for one in images if not one.messages or one.id in stay], gone

    def look(self, images: Sequence[Sample]) -> Looked:
        """Each image by itself; see `PictureSteps.look`."""
        return self._pictures.look(images)

    def choose(
        self, pictures: Pictures, evidence: Mapping[int, list[dict[str, Any]]], named: Named
    ) -> tuple[Fallen, Fallen]:
        """Which of all images that were looked at go: near-duplicates, and pictures of evaluation sets."""
        near, seen = self._pictures.choose(pictures, evidence, named)
        self._remember(pictures.without([*near, *seen]))
        return near, seen

    def samples(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """(the samples that stay, those that go with `extra["rejected_by"]`). Samples of an image lie together."""
        kept, gone, self._early = list(samples), self._early, []
        for step in (self._texts.without_personal_data, self._texts.once, self._texts.unasked):
            kept, dropped = step(kept)
            gone += dropped
        return kept, gone

    def general(self, samples: Sequence[Sample], *, drawn: bool) -> tuple[list[Sample], list[Sample]]:
        """The same for the general set: (those that stay, those that go with `extra["rejected_by"]`).

        What our own corpus has `drawn` is decontaminated only: it holds nobody's data, its parts may be used freely,
        its plain pictures are alike by their nature, and evaluation draws others. Its questions about pictures have
        the wording of a few patterns, so that there the picture decides.
        """
        if not self.asked:
            return list(samples), []
        report: Counts = {"samples": len(samples), "drawn": drawn}
        if self._benchmarks:
            report["decontamination"] = {"images": [], "questions": []}
        self.report["general"] = report
        pictures = PictureSteps(
            self._section, self._store, self._benchmarks, self._tell, report, "samples_dropped", drawn=drawn
        )
        kept, lost, left = pictures.run(samples)
        gone = as_rejected(lost)
        texts = TextSteps(self._section, self._benchmarks, report)
        steps = (texts.unasked_alone,) if drawn else (texts.without_personal_data, texts.once, texts.unasked)
        for step in steps:
            kept, dropped = step(kept)
            gone += dropped
        report["kept"] = len(kept)
        if not drawn:
            self._remember(left)
        return kept, gone

    def count_groups(self, images: Iterable[Sample]) -> None:
        """Tells in the report how many images have the keys to group by. Raises `UserError` for one that none has."""
        if self._section.groups:
            self.report["group_keys"] = grouping.count(images, self._section.groups)

    def sorting(self) -> splits.Groups | None:
        """The groups that become the sides of a split; None where the recipe asks for no split."""
        shares = self._shares()
        return splits.Groups(shares, self._seed) if sum(shares.values()) else None

    def split(self, samples: Sequence[Sample], general: Sequence[Sample] = ()) -> None:
        """Gives each sample its split, all of a group the same; those of a `general` set that was not drawn too, so
        that no group has a foot on either side."""
        groups = self.sorting()
        if groups is None:
            return
        keys = [self.groups(sample) for sample in chain(samples, general)]
        for names in keys:
            groups.join(names)
        for sample, names in zip(chain(samples, general), keys, strict=True):
            sample.split = groups.side(names)
        self.add_splits(groups, [sample.split for sample in samples])
        if general:
            self.add_splits(groups, [sample.split for sample in general], self.report["general"])

    def add_splits(
        self,
        groups: splits.Groups,
        samples: Sequence[splits.Split] | Mapping[splits.Split, int],
        report: Counts | None = None,
    ) -> None:
        """Tells in the report how many samples came to which side."""
        part = self.report if report is None else report
        part["splits"] = {"groups": groups.count, **splits.figures(samples, self._shares())}

    def groups(self, sample: Sample) -> list[str]:
        """The names of a sample's groups: its images' clusters, and the values of the keys that the recipe names.
        All images must have been looked at."""
        if self._clusters is None:
            near = self._section.near_duplicates
            self._clusters = _together(self._shown, _TOGETHER if near is None else near)
        names = [f"image/{self._clusters.get(sha, sha)}" for sha in sample.images]
        for key in self._section.groups:
            if (found := grouping.value(sample, key)) is not None:
                names.append(f"{key}/{found}")
        return names or [f"sample/{sample.id}"]

    def merge(self, told: Mapping[str, Any]) -> None:
        """Adds what the same recipe's hygiene reported of other images and samples."""
        for part, figures in told.items():
            if part == "decontamination":  # its other figures are of the evaluation sets
                self.report[part]["questions"] += figures["questions"]
                continue
            fixed = {name: figures[name] for name in ("least", "radius") if name in figures}
            tally(self.report, part, **{name: value for name, value in figures.items() if name not in fixed})
            self.report[part] |= fixed

    def _remember(self, left: Pictures | None) -> None:
        self._clusters = None
        if left is not None and sum(self._shares().values()):
            self._shown.append(left)

    def _shares(self) -> dict[str, float]:
        return {"val": self._section.val, "test": self._section.test}


def read_benchmarks(section: HygieneSection) -> Benchmarks | None:
    """The evaluation sets that data are kept clean of; None when the recipe names none."""
    if not section.decontaminate:
        return None
    tsvs, folders = map(Path, section.decontaminate), map(Path, section.decontaminate_images)
    name = section.question_embedder
    embed = function(name, "data.hygiene.question_embedder") if name else None
    return Benchmarks(list(tsvs), list(folders), embed, section.question_cosine)


def entry(gone: Gone) -> dict[str, str]:
    """An image that went, as the report lists it."""
    return {"image": gone.sample.id, "step": gone.step, "reason": gone.reason}


def _together(shown: Sequence[Pictures], radius: int) -> dict[str, str]:
    """Image → the image that stands for its cluster, where that is another."""
    everything = picture_table.joined(shown)
    prints: hashing.Print = everything.prints.rows(everything.first)
    heads = dedup.clusters(len(everything.first), dedup.image_pairs(prints, radius))
    return {everything.sha(n): everything.sha(head) for n, head in enumerate(heads) if head != n}

"""The hygiene of data construction: what `data.hygiene` of the recipe asks for.

    images → licences → personal data (annotations, burned-in text) → near-duplicates → decontamination → ...
    samples → personal data (texts) → near-duplicate questions → decontamination → votes ... → grouped splits
    general set → all of these

What falls out is listed with its reason: an image in report.json, a sample in rejected.parquet, one of the general set
in general_rejected.parquet. Everything is off until the recipe asks for it; then report.json has a part `hygiene` with
counts and all evidence, and in it a part `general` with those of the general set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open4ov.data import dedup, hashing, splits
from open4ov.data.decontaminate import Benchmarks
from open4ov.data.hygiene_pictures import PictureSteps, Tell, fields
from open4ov.data.hygiene_texts import TextSteps, as_rejected
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample
from open4ov.store import ImageStore

Dropped = list[dict[str, str]]
_TOGETHER = 8  # bits within which images lie on one side of a split when the recipe names no radius


class Hygiene:
    """One run's hygiene. `report` fills as its steps are called, and stays empty when nothing is asked for."""

    def __init__(self, section: HygieneSection, store: ImageStore, seed: int, tell: Tell) -> None:
        self._section, self._store, self._seed, self._tell = section, store, seed, tell
        tsvs, folders = map(Path, section.decontaminate), map(Path, section.decontaminate_images)
        self._benchmarks = Benchmarks(list(tsvs), list(folders)) if section.decontaminate else None
        self.report: dict[str, Any] = {}
        if self._benchmarks:
            counts, faults = self._benchmarks.counts, self._benchmarks.faults
            self.report["decontamination"] = {**counts, "unreadable": faults, "images": [], "questions": []}
        self._pictures = PictureSteps(section, store, self._benchmarks, tell, self.report, "images_dropped")
        self._texts = TextSteps(section, self._benchmarks, self.report)
        self._early: list[Sample] = []
        self._general: tuple[PictureSteps, list[Sample]] | None = None

    @property
    def asked(self) -> bool:
        """Whether the recipe asks for anything."""
        return self._section != HygieneSection()

    def images(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        """The images that stay, cleaned; those that do not are added to `skipped`, but for conversations that go for
        their texts, which `samples` gives back with the others."""
        kept, gone = self._pictures.run(images)
        skipped += [{"image": one.sample.id, "step": one.step, "reason": one.reason} for one in gone]
        told = [image for image in kept if image.messages]
        for step in (self._texts.without_personal_data, self._texts.unasked):  # before a model reads them
            told, dropped = step(told)
            self._early += dropped
        stay = {sample.id: sample for sample in told}
        return [stay[image.id] if image.messages else image for image in kept if not image.messages or image.id in stay]

    def samples(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """(the samples that stay, those that go with `extra["rejected_by"]`)."""
        kept, gone = list(samples), self._early
        for step in (self._texts.without_personal_data, self._texts.once, self._texts.unasked):
            kept, dropped = step(kept)
            gone += dropped
        return kept, gone

    def general(self, samples: Sequence[Sample], *, drawn: bool) -> tuple[list[Sample], list[Sample]]:
        """The same for the general set: (those that stay, those that go with `extra["rejected_by"]`).

        What our own corpus has `drawn` is decontaminated only: it holds nobody's data, its parts may be used freely,
        its plain pictures are alike by their nature, and evaluation draws others. Its questions about pictures have
        the wording of a few patterns, so that there the picture decides. `split` gives the rest their sides.
        """
        if not self.asked:
            return list(samples), []
        report: dict[str, Any] = {"samples": len(samples), "drawn": drawn}
        if self._benchmarks:
            report["decontamination"] = {"images": [], "questions": []}
        self.report["general"] = report
        pictures = PictureSteps(self._section, self._store, self._benchmarks, self._tell, report, "samples_dropped")
        kept, lost = pictures.run(samples, drawn=drawn)
        gone = as_rejected(lost)
        texts = TextSteps(self._section, self._benchmarks, report)
        steps = (texts.unasked_alone,) if drawn else (texts.without_personal_data, texts.once, texts.unasked)
        for step in steps:
            kept, dropped = step(kept)
            gone += dropped
        report["kept"] = len(kept)
        if not drawn:
            self._general = pictures, kept
        return kept, gone

    def split(self, samples: Sequence[Sample]) -> None:
        """Gives each sample its split, all of a group the same; the general set's too, so that no group has a foot on
        either side."""
        section = self._section
        shares = {"val": section.val, "test": section.test}
        if not section.val + section.test:
            return
        looks = [self._pictures.look]
        everything = list(samples)
        if self._general is not None:
            looks.append(self._general[0].look)
            everything += self._general[1]
        prints = {sha: (look.prints, at) for look in looks for at, sha in enumerate(look.shas)}
        shas = [sha for sha in dict.fromkeys(sha for sample in everything for sha in sample.images) if sha in prints]
        near = section.near_duplicates
        pairs = dedup.image_pairs(hashing.picked([prints[sha] for sha in shas]), _TOGETHER if near is None else near)
        clusters = dict(zip(shas, (shas[head] for head in dedup.clusters(len(shas), pairs)), strict=True))
        keys = [self._groups(sample, clusters) for sample in everything]
        sides = splits.assign(keys, shares, self._seed)
        for sample, side in zip(everything, sides, strict=True):
            sample.split = side
        for part, begin, end in ((self.report, 0, len(samples)), (self.report.get("general"), len(samples), len(keys))):
            if part is not None and not part.get("drawn"):
                together = len({name for names in keys[begin:end] for name in names})
                part["splits"] = {"groups": together, **splits.figures(sides[begin:end], shares)}

    def _groups(self, sample: Sample, clusters: dict[str, str]) -> list[str]:
        """The names of a sample's groups: its images' clusters, and the values of the keys that the recipe names."""
        names = [f"image/{clusters.get(sha, sha)}" for sha in sample.images]
        for key in self._section.groups:
            for place in (sample.scene or {}, sample.extra, fields(sample)):
                if (value := place.get(key)) not in (None, ""):
                    names.append(f"{key}/{value}")
                    break
        return names or [f"sample/{sample.id}"]

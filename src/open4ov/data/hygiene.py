"""The hygiene of data construction: what `data.hygiene` of the recipe asks for, in one place each.

    images → licences → personal data (annotations, burned-in text) → near-duplicates → decontamination → ...
    samples → personal data (texts) → near-duplicate questions → decontamination → votes ... → grouped splits

What falls out is listed with its reason: an image in report.json, a sample in rejected.parquet. Everything is off until
the recipe asks for it; then report.json has a part `hygiene` with counts and all evidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.data import burned_in, dedup, hashing, personal, splits
from open4ov.data.decontaminate import Benchmarks
from open4ov.data.working import Counts, add
from open4ov.functions import function
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample, content_id
from open4ov.store import ImageStore

UNKNOWN = "unknown"
Tell = Callable[[str], Callable[[int, int], None] | None]
Dropped = list[dict[str, str]]
Fallen = dict[int, dict[str, str]]
"""Place among the images that were looked at → what is said of it"""


@dataclass
class Looked:
    """Images that were looked at one by one: those that stay for now, what fell out (by step), and what comparing them
    with all others needs: `prints` and, by place among the kept, the `evidence` of an evaluation set's picture."""

    kept: list[Sample]
    skipped: list[Dropped]
    prints: hashing.Print | None
    evidence: dict[int, list[dict[str, Any]]]


def compares(section: HygieneSection) -> bool:
    """Whether images are compared with each other or with evaluation sets."""
    return section.near_duplicates is not None or bool(section.decontaminate) or section.val + section.test > 0


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
        self.clusters: dict[str, str] = {}
        """Image → the image that stands for its cluster, where that is another"""
        self.report: dict[str, Any] = {}
        if self._benchmarks:
            counts, faults = self._benchmarks.counts, self._benchmarks.faults
            self.report["decontamination"] = {**counts, "unreadable": faults, "images": [], "questions": []}

    def images(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        """The images that stay, cleaned; those that do not are added to `skipped`. All in memory at once."""
        looked = self.look(images)
        near, seen = self.choose(looked, lambda places: [looked.kept[place] for place in places])
        for fallen in (*looked.skipped, near.values(), seen.values()):
            skipped += fallen
        return [image for place, image in enumerate(looked.kept) if place not in near and place not in seen]

    def look(self, images: Sequence[Sample]) -> Looked:
        """Each image by itself: its licence, personal data, and its thumbnail where that is asked for."""
        skipped: list[Dropped] = [[], [], []]
        kept = self._licensed(images, skipped[0])
        kept = self._without_tags(kept, skipped[1])
        kept = self._painted(kept, skipped[2])
        if not compares(self._section):
            return Looked(kept, skipped, None, {})
        thumbnails = self._thumbnails(kept)
        found = self._benchmarks.pictures(thumbnails) if self._benchmarks else []
        evidence = {at: [one.record() for one in hits] for at, hits in enumerate(found) if hits}
        return Looked(kept, skipped, dedup.prints_of(thumbnails), evidence)

    def choose(self, looked: Looked, named: Callable[[Sequence[int]], list[Sample]]) -> tuple[Fallen, Fallen]:
        """Which of all kept images go, by their places: near-duplicates, and pictures of evaluation sets.

        `looked`: of all images together (`kept` is not read). `named` gives the images at some places.
        """
        seen: Fallen = {}
        if looked.prints is None:
            return {}, seen
        near = self._single(looked.prints, named)
        places = [place for place in looked.evidence if place not in near]
        for place, image in zip(places, named(places), strict=True):
            hits = looked.evidence[place]
            self.report["decontamination"]["images"].append({"image": image.id, "evidence": hits})
            first = hits[0]
            what = f"{first['found']}, likeness {first['likeness']}"
            reason = f"its picture is in {first['file']}, index {first['index']} ({what})"
            seen[place] = _entry(image, "decontamination", reason)
        return near, seen

    def samples(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """(the samples that stay, those that go with `extra["rejected_by"]`). Samples of an image lie together."""
        kept, gone = list(samples), list[Sample]()
        for step in (self._without_personal_data, self._once, self._unasked):
            kept, dropped = step(kept)
            gone += dropped
        return kept, gone

    def sorting(self) -> splits.Groups | None:
        """The groups that become the sides of a split; None where the recipe asks for no split."""
        shares = {"val": self._section.val, "test": self._section.test}
        return splits.Groups(shares, self._seed) if sum(shares.values()) else None

    def add_splits(self, groups: splits.Groups, samples: Mapping[splits.Split, int]) -> None:
        """Tells in the report how many samples came to which side."""
        shares = {"val": self._section.val, "test": self._section.test}
        self.report["splits"] = {"groups": groups.count, **splits.figures(samples, shares)}

    def merge(self, told: Mapping[str, Any]) -> None:
        """Adds what the same recipe's hygiene reported of other images and samples."""
        for part, figures in told.items():
            if part == "decontamination":  # its other figures are of the evaluation sets
                self.report[part]["questions"] += figures["questions"]
                continue
            fixed = {name: figures[name] for name in ("least", "radius") if name in figures}
            self._count(part, **{name: value for name, value in figures.items() if name not in fixed})
            self.report[part] |= fixed

    def _count(self, part: str, **figures: Any) -> None:
        """Adds figures to a part of the report."""
        found: Counts = self.report.setdefault(part, {})
        add(found, figures)
        for name, value in figures.items():
            if isinstance(value, Mapping):
                found[name] = dict(sorted(found[name].items()))

    def _licensed(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        allowed = self._section.licences
        if allowed is None:
            return list(images)
        wanted = {_spelling(name) for name in allowed}
        kept = [image for image in images if _spelling(licence(image)) in wanted]
        self._count("licences", found=Counter(map(licence, images)), dropped=len(images) - len(kept))
        stays = {image.id for image in kept}
        for image in images:
            if image.id not in stays:
                _skip(skipped, image, "licences", f"its licence ({licence(image)}) is not in data.hygiene.licences")
        return kept

    def _without_tags(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        """Annotations and file names without personal data."""
        kinds = self._section.personal_data
        removed = Counter(kind for image in images for kind in image.extra.get("metadata_removed", ()))
        if not kinds:
            if removed:
                self._count("personal_data", file_metadata_removed=removed)
            return list(images)
        kept: list[Sample] = []
        counts: Counter[str] = Counter()
        for image in images:
            (scene, extra), here = personal.clean([image.scene, image.extra], kinds)
            counts += here
            if doomed := sorted(kind for kind in here if kinds.get(cast(Any, kind)) == "drop"):
                _skip(skipped, image, "personal data", f"its annotation holds {', '.join(doomed)}")
                continue
            kept.append(image.model_copy(update={"scene": scene, "extra": extra}) if here else image)
        dropped = len(images) - len(kept)
        self._count("personal_data", file_metadata_removed=removed, in_annotations=counts, images_dropped=dropped)
        return kept

    def _painted(self, images: list[Sample], skipped: Dropped) -> list[Sample]:
        """Images with personal data in their pixels painted over; `lineage` names the original."""
        if not self._section.burned_in:
            return images
        kinds = self._section.personal_data
        reader = function(self._section.burned_in, "data.hygiene.burned_in")
        told = self._tell("reading text in images")
        kept: list[Sample] = []
        counts: Counter[str] = Counter()
        painted = 0
        for done, image in enumerate(images, start=1):
            replaced: list[str] = []
            doomed: set[str] = set()
            for sha in image.images:
                result, here = burned_in.masked(self._store.get(sha), reader, kinds)
                counts += here
                doomed |= {kind for kind in here if kinds.get(cast(Any, kind)) == "drop"}
                replaced.append(self._store.put(result) if here else sha)
            if told:
                told(done, len(images))
            if doomed:
                _skip(skipped, image, "personal data", f"its picture shows {', '.join(sorted(doomed))}")
                continue
            if replaced != image.images:
                painted += 1
                image = image.model_copy(
                    update={"id": content_id(image.id, replaced), "images": replaced,
                            "lineage": [*image.lineage, image.id]}
                )  # fmt: skip
            kept.append(image)
        dropped = len(images) - len(kept)
        self._count("burned_in", images_painted=painted, images_dropped=dropped, found=counts)
        return kept

    def _thumbnails(self, images: Sequence[Sample]) -> list[NDArray[np.uint8]]:
        told = self._tell("hashing images")
        made: list[NDArray[np.uint8]] = []
        for image in images:
            made.append(hashing.thumbnail(self._store.get(image.images[0])))
            if told:
                told(len(made), len(images))
        return made

    def _single(self, prints: hashing.Print, named: Callable[[Sequence[int]], list[Sample]]) -> Fallen:
        """The near-duplicates that go, by their places; for splits, what is left is grouped by likeness."""
        radius = self._section.near_duplicates
        gone: Fallen = {}
        if radius is not None:
            pairs = dedup.image_pairs(prints, radius)
            alike = sorted({place for pair in pairs for place in pair[:2]})
            images = dict(zip(alike, named(alike), strict=True))
            number = {place: n for n, place in enumerate(alike)}
            sizes = [self._store.get(images[place].images[0]).size for place in alike]
            rank = [(-size[0] * size[1], images[place].id) for size, place in zip(sizes, alike, strict=True)]
            found = dedup.keep(len(alike), [(number[i], number[j], bits) for i, j, bits in pairs], rank)
            for n, (other, bits) in sorted(found.items()):
                reason = f"shows nearly the same as {images[alike[other]].id} ({bits:g} bits apart)"
                gone[alike[n]] = _entry(images[alike[n]], "near-duplicates", reason)
            self._count("near_duplicates", pairs=len(pairs), images_dropped=len(gone))
            self.report["near_duplicates"]["radius"] = radius
        if self._section.val + self._section.test > 0:
            stay = np.array([at for at in range(len(prints.hashes)) if at not in gone], dtype=np.int64)
            left = hashing.Print(prints.hashes[stay], prints.mirrored[stay], prints.colours[stay])
            pairs = dedup.image_pairs(left, _TOGETHER if radius is None else radius)
            heads = dedup.clusters(len(stay), pairs)
            joined = [int(stay[n]) for n, head in enumerate(heads) if head != n]
            first = [int(stay[heads[n]]) for n, head in enumerate(heads) if head != n]
            for image, head in zip(named(joined), named(first), strict=True):
                self.clusters[image.images[0]] = head.images[0]
        return gone

    def _without_personal_data(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        kinds = self._section.personal_data
        if not kinds:
            return samples, []
        kept: list[Sample] = []
        gone: list[Sample] = []
        counts: Counter[str] = Counter()
        for sample in samples:
            told = sample.model_dump(include={"messages", "answer", "aliases", "rejected"})
            cleaned, here = personal.clean(told, kinds)
            counts += here
            if here:
                sample = Sample.model_validate({**sample.model_dump(), **cleaned})
            if doomed := sorted(kind for kind in here if kinds.get(cast(Any, kind)) == "drop"):
                gone.append(_rejected(sample, "personal_data", f"its text held {', '.join(doomed)}"))
            else:
                kept.append(sample)
        self._count("personal_data", in_texts=counts, samples_dropped=len(gone))
        return kept, gone

    def _once(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Of nearly equal questions about one image the first stays."""
        least = self._section.near_questions
        if least is None:
            return samples, []
        about: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for at, sample in enumerate(samples):
            about[tuple(sample.images)].append(at)
        reasons: dict[int, str] = {}
        for places in about.values():
            pairs = dedup.text_pairs([samples[at].messages[0].text for at in places], least)
            for at, (other, likeness) in dedup.keep(len(places), pairs, [(n, "") for n in range(len(places))]).items():
                reasons[places[at]] = f"asks nearly the same as {samples[places[other]].id} (Jaccard {likeness:.3f})"
        gone = [_rejected(samples[at], "near_duplicate", reasons[at]) for at in sorted(reasons)]
        self._count("near_questions", samples_dropped=len(gone))
        self.report["near_questions"]["least"] = least
        return [sample for at, sample in enumerate(samples) if at not in reasons], gone

    def _unasked(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        if self._benchmarks is None:
            return samples, []
        kept: list[Sample] = []
        gone: list[Sample] = []
        for sample in samples:
            asked = [message.text for message in sample.messages if message.role == "user"]
            answer = sample.answer if len(asked) == 1 else None
            found = [self._benchmarks.asked(text, answer, pictured=bool(sample.images)) for text in asked]
            evidence = next((one for one in found if one), None)
            if evidence is None:
                kept.append(sample)
                continue
            self.report["decontamination"]["questions"].append({"sample": sample.id, "evidence": evidence.record()})
            reason = f"its question is in {evidence.file}, index {evidence.index} (overlap {evidence.likeness})"
            gone.append(_rejected(sample, "decontamination", reason))
        return kept, gone

    def groups(self, sample: Sample) -> list[str]:
        """The names of a sample's groups: its images' clusters, and the values of the keys that the recipe names."""
        names = [f"image/{self.clusters.get(sha, sha)}" for sha in sample.images]
        for key in self._section.groups:
            value = (sample.scene or {}).get(key, sample.extra.get(key))
            if value not in (None, ""):
                names.append(f"{key}/{value}")
        return names or [f"sample/{sample.id}"]


_TOGETHER = 8  # bits within which images lie on one side of a split when the recipe names no radius


def read_benchmarks(section: HygieneSection) -> Benchmarks | None:
    """The evaluation sets that data are kept clean of; None when the recipe names none."""
    return Benchmarks([Path(name) for name in section.decontaminate]) if section.decontaminate else None


def licence(sample: Sample) -> str:
    """The licence of a sample's image as its annotation states it (`licence` or `license`); `unknown` without one."""
    for place in (sample.extra, sample.scene or {}):
        for key in ("licence", "license"):
            if isinstance(value := place.get(key), str) and value.strip():
                return value.strip()
    return UNKNOWN


def _spelling(name: str) -> str:
    """One spelling of a licence's name: CC BY 4.0, cc-by-4.0."""
    return "-".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _entry(image: Sample, step: str, reason: str) -> dict[str, str]:
    return {"image": image.id, "step": step, "reason": reason}


def _skip(skipped: Dropped, image: Sample, step: str, reason: str) -> None:
    skipped.append(_entry(image, step, reason))


def _rejected(sample: Sample, by: str, reason: str) -> Sample:
    return sample.model_copy(update={"extra": {**sample.extra, "rejected_by": by, "reason": reason}})

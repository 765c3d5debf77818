"""The hygiene of data construction: what `data.hygiene` of the recipe asks for, in one place each.

    images → licences → personal data (annotations, burned-in text) → near-duplicates → decontamination → ...
    samples → personal data (texts) → near-duplicate questions → decontamination → votes ... → grouped splits

What falls out is listed with its reason: an image in report.json, a sample in rejected.parquet. Everything is off until
the recipe asks for it; then report.json has a part `hygiene` with counts and all evidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.data import burned_in, dedup, hashing, personal, splits
from open4ov.data.decontaminate import Benchmarks
from open4ov.functions import function
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample, content_id
from open4ov.store import ImageStore

UNKNOWN = "unknown"
Tell = Callable[[str], Callable[[int, int], None] | None]
Dropped = list[dict[str, str]]


class Hygiene:
    """One run's hygiene. `report` fills as its steps are called, and stays empty when nothing is asked for."""

    def __init__(self, section: HygieneSection, store: ImageStore, seed: int, tell: Tell) -> None:
        self._section, self._store, self._seed, self._tell = section, store, seed, tell
        self._benchmarks = _benchmarks(section) if section.decontaminate else None
        self._clusters: dict[str, str] = {}
        self.report: dict[str, Any] = {}
        if self._benchmarks:
            counts, faults = self._benchmarks.counts, self._benchmarks.faults
            self.report["decontamination"] = {**counts, "unreadable": faults, "images": [], "questions": []}

    def images(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        """The images that stay, cleaned; those that do not are added to `skipped`."""
        kept = self._licensed(images, skipped)
        kept = self._without_tags(kept, skipped)
        kept = self._painted(kept, skipped)
        section = self._section
        splitting = section.val + section.test > 0
        if section.near_duplicates is None and self._benchmarks is None and not splitting:
            return kept
        thumbnails = self._thumbnails(kept)
        kept, thumbnails = self._single(kept, thumbnails, skipped)
        kept = self._unseen(kept, thumbnails, skipped)
        return kept

    def samples(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """(the samples that stay, those that go with `extra["rejected_by"]`)."""
        kept, gone = list(samples), list[Sample]()
        for step in (self._without_personal_data, self._once, self._unasked):
            kept, dropped = step(kept)
            gone += dropped
        return kept, gone

    def split(self, samples: Sequence[Sample]) -> None:
        """Gives each sample its split, all of a group the same."""
        section = self._section
        shares = {"val": section.val, "test": section.test}
        if not section.val + section.test:
            return
        keys = [self._groups(sample) for sample in samples]
        sides = splits.assign(keys, shares, self._seed)
        for sample, split in zip(samples, sides, strict=True):
            sample.split = split
        together = len({name for names in keys for name in names})
        self.report["splits"] = {"groups": together, **splits.figures(sides, shares)}

    def _licensed(self, images: Sequence[Sample], skipped: Dropped) -> list[Sample]:
        allowed = self._section.licences
        if allowed is None:
            return list(images)
        wanted = {_spelling(name) for name in allowed}
        kept = [image for image in images if _spelling(licence(image)) in wanted]
        counted = Counter(licence(image) for image in images)
        self.report["licences"] = {"found": dict(sorted(counted.items())), "dropped": len(images) - len(kept)}
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
                self.report["personal_data"] = {"file_metadata_removed": dict(sorted(removed.items()))}
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
        self.report["personal_data"] = {
            "file_metadata_removed": dict(sorted(removed.items())),
            "in_annotations": dict(sorted(counts.items())),
            "images_dropped": len(images) - len(kept),
        }
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
        self.report["burned_in"] = {
            "images_painted": painted,
            "images_dropped": dropped,
            "found": dict(sorted(counts.items())),
        }
        return kept

    def _thumbnails(self, images: Sequence[Sample]) -> list[NDArray[np.uint8]]:
        told = self._tell("hashing images")
        made: list[NDArray[np.uint8]] = []
        for image in images:
            made.append(hashing.thumbnail(self._store.get(image.images[0])))
            if told:
                told(len(made), len(images))
        return made

    def _single(
        self, images: list[Sample], thumbnails: list[NDArray[np.uint8]], skipped: Dropped
    ) -> tuple[list[Sample], list[NDArray[np.uint8]]]:
        """Near-duplicates left out; for splits, what is left is grouped by likeness."""
        radius = self._section.near_duplicates
        prints = dedup.prints_of(thumbnails)
        if radius is not None:
            pairs = dedup.image_pairs(prints, radius)
            sizes = [self._store.get(image.images[0]).size for image in images] if pairs else [(1, 1)] * len(images)
            rank = [(-size[0] * size[1], image.id) for size, image in zip(sizes, images, strict=True)]
            gone = dedup.keep(len(images), pairs, rank)
            for at, (other, bits) in sorted(gone.items()):
                reason = f"shows nearly the same as {images[other].id} ({bits:g} bits apart)"
                _skip(skipped, images[at], "near-duplicates", reason)
            self.report["near_duplicates"] = {"pairs": len(pairs), "images_dropped": len(gone), "radius": radius}
            stay = [at for at in range(len(images)) if at not in gone]
            images, thumbnails = [images[at] for at in stay], [thumbnails[at] for at in stay]
        if self._section.val + self._section.test > 0:
            pairs = dedup.image_pairs(dedup.prints_of(thumbnails), _TOGETHER if radius is None else radius)
            for at, head in enumerate(dedup.clusters(len(images), pairs)):
                self._clusters[images[at].images[0]] = images[head].images[0]
        return images, thumbnails

    def _unseen(self, images: list[Sample], thumbnails: list[NDArray[np.uint8]], skipped: Dropped) -> list[Sample]:
        if self._benchmarks is None:
            return images
        kept: list[Sample] = []
        for image, evidence in zip(images, self._benchmarks.pictures(thumbnails), strict=True):
            if not evidence:
                kept.append(image)
                continue
            hits = [one.record() for one in evidence]
            self.report["decontamination"]["images"].append({"image": image.id, "evidence": hits})
            first = evidence[0]
            reason = f"its picture is in {first.file}, index {first.index} ({first.found}, likeness {first.likeness})"
            _skip(skipped, image, "decontamination", reason)
        return kept

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
        part = self.report.setdefault("personal_data", {})
        part |= {"in_texts": dict(sorted(counts.items())), "samples_dropped": len(gone)}
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
        self.report["near_questions"] = {"samples_dropped": len(gone), "least": least}
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

    def _groups(self, sample: Sample) -> list[str]:
        """The names of a sample's groups: its images' clusters, and the values of the keys that the recipe names."""
        names = [f"image/{self._clusters.get(sha, sha)}" for sha in sample.images]
        for key in self._section.groups:
            value = (sample.scene or {}).get(key, sample.extra.get(key))
            if value not in (None, ""):
                names.append(f"{key}/{value}")
        return names or [f"sample/{sample.id}"]


_TOGETHER = 8  # bits within which images lie on one side of a split when the recipe names no radius


def _benchmarks(section: HygieneSection) -> Benchmarks:
    name = section.question_embedder
    embed = function(name, "data.hygiene.question_embedder") if name else None
    return Benchmarks([Path(path) for path in section.decontaminate], embed, section.question_cosine)


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


def _skip(skipped: Dropped, image: Sample, step: str, reason: str) -> None:
    skipped.append({"image": image.id, "step": step, "reason": reason})


def _rejected(sample: Sample, by: str, reason: str) -> Sample:
    return sample.model_copy(update={"extra": {**sample.extra, "rejected_by": by, "reason": reason}})

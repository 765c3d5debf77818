"""The steps of hygiene that look at pictures and at what came with them, for the vertical and the general set alike.

    licences → personal data (annotations, burned-in text) → near-duplicates → decontamination

A sample may show several pictures. It goes when one of them holds what is to be dropped or stands in an evaluation set,
and as a near-duplicate only when all of them are ones. A picture that several samples show is looked at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.data import burned_in, dedup, hashing, personal
from open4ov.data.decontaminate import Benchmarks
from open4ov.data.picture_table import Pictures, distinct, table
from open4ov.data.working import Counts, tally
from open4ov.functions import function
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample, content_id
from open4ov.store import ImageStore

UNKNOWN = "unknown"
_BATCH = 256
Tell = Callable[[str], Callable[[int, int], None] | None]


@dataclass(frozen=True)
class Gone:
    """A sample that a step takes out, and why."""

    sample: Sample
    step: str
    reason: str


Fallen = dict[int, Gone]
"""Place among the samples that were looked at → what is said of it"""
Named = Callable[[Sequence[int]], list[Sample]]
"""Gives the samples at some places"""


@dataclass
class Looked:
    """Samples that were looked at one by one: those that stay for now, those that go (licences, annotations, pixels),
    and what comparing them with all others needs: their `pictures` (None: nobody asks for it), and of those that an
    evaluation set shows, by row, the `evidence`."""

    kept: list[Sample]
    gone: list[list[Gone]]
    pictures: Pictures | None
    evidence: dict[int, list[dict[str, Any]]]


class PictureSteps:
    """The steps for one set of samples. `report` takes their counts; `dropped` is what those call what falls out, and
    `drawn` pictures of our own corpora are looked at for contamination only.

    `look` may be called chunk by chunk, also by several objects whose reports are added; `choose` sees all at once.
    """

    def __init__(
        self, section: HygieneSection, store: ImageStore, benchmarks: Benchmarks | None, tell: Tell, report: Counts,
        dropped: str, *, drawn: bool = False,
    ) -> None:  # fmt: skip
        self._section, self._store, self._benchmarks, self._tell = section, store, benchmarks, tell
        self._report, self._dropped, self._drawn = report, dropped, drawn

    @property
    def compares(self) -> bool:
        """Whether pictures are compared with each other or with evaluation sets."""
        section = self._section
        return bool(section.decontaminate) or (
            not self._drawn and (section.near_duplicates is not None or section.val + section.test > 0)
        )

    def run(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Gone], Pictures | None]:
        """(the samples that stay, those that go, the pictures of those that stay). All in memory at once."""
        looked = self.look(samples)
        near, seen = self.choose(looked.pictures, looked.evidence, lambda places: [looked.kept[at] for at in places])
        gone = [*chain.from_iterable(looked.gone), *near.values(), *seen.values()]
        kept = [sample for at, sample in enumerate(looked.kept) if at not in near and at not in seen]
        left = looked.pictures.without([*near, *seen]) if looked.pictures is not None else None
        return kept, gone, left

    def look(self, samples: Sequence[Sample]) -> Looked:
        """Each sample by itself: its licence, personal data, and its pictures' hashes where they are asked for."""
        kept, gone = list(samples), list[list[Gone]]()
        for step in () if self._drawn else (self._licensed, self._without_tags, self._painted):
            kept, dropped = step(kept)
            gone.append(dropped)
        if not self.compares:
            return Looked(kept, gone, None, {})
        shas, told = distinct(kept), self._tell("hashing images")
        prints: list[hashing.Print] = []
        sizes: list[int] = []
        evidence: dict[int, list[dict[str, Any]]] = {}
        for begin in range(0, len(shas), _BATCH):  # a batch of thumbnails in memory at a time
            thumbnails: list[NDArray[np.uint8]] = []
            for sha in shas[begin : begin + _BATCH]:
                picture = self._store.get(sha)
                sizes.append(picture.width * picture.height)
                thumbnails.append(hashing.thumbnail(picture))
                if told:
                    told(len(sizes), len(shas))
            prints.append(hashing.prints(np.stack(thumbnails)))
            found = self._benchmarks.pictures(thumbnails) if self._benchmarks is not None else []
            evidence |= {at: [one.record() for one in hits] for at, hits in enumerate(found, start=begin) if hits}
        return Looked(kept, gone, table(kept, prints, sizes), evidence)

    def choose(
        self, pictures: Pictures | None, evidence: Mapping[int, list[dict[str, Any]]], named: Named
    ) -> tuple[Fallen, Fallen]:
        """Which of all samples that were looked at go, by their places: near-duplicates, and those whose pictures an
        evaluation set shows."""
        if pictures is None:
            return {}, {}
        near = self._single(pictures, named)
        return near, self._unseen(pictures, evidence, near, named)

    def _licensed(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        allowed = self._section.licences
        if allowed is None:
            return samples, []
        wanted = {_spelling(name) for name in allowed}
        kept = [sample for sample in samples if _spelling(licence(sample)) in wanted]
        stay = {sample.id for sample in kept}
        gone = [
            Gone(sample, "licences", f"its licence ({licence(sample)}) is not in data.hygiene.licences")
            for sample in samples
            if sample.id not in stay
        ]
        counted = Counter(licence(sample) for sample in samples)
        tally(self._report, "licences", found=counted, dropped=len(gone))
        return kept, gone

    def _without_tags(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        """Annotations and file names without personal data."""
        kinds = self._section.personal_data
        removed = Counter(kind for sample in samples for kind in sample.extra.get("metadata_removed", ()))
        part: dict[str, Any] = {"file_metadata_removed": removed}
        flagged = sum(_says_burned_in(sample) for sample in samples)
        if flagged and not self._section.burned_in:
            part["said_to_be_burned_in"] = flagged  # nobody has looked for it
        if not kinds:
            if removed or len(part) > 1:
                tally(self._report, "personal_data", **part)
            return samples, []
        kept: list[Sample] = []
        gone: list[Gone] = []
        counts: Counter[str] = Counter()
        for sample in samples:
            (scene, extra), here = personal.clean([sample.scene, sample.extra], kinds)
            counts += here
            if doomed := personal.to_drop(here, kinds):
                gone.append(Gone(sample, "personal data", f"its annotation holds {', '.join(doomed)}"))
                continue
            kept.append(sample.model_copy(update={"scene": scene, "extra": extra}) if here else sample)
        tally(self._report, "personal_data", **part, in_annotations=counts, **{self._dropped: len(gone)})
        return kept, gone

    def _painted(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        """Pictures with personal data in their pixels painted over; `lineage` names the original."""
        if not self._section.burned_in:
            return samples, []
        kinds = self._section.personal_data
        reader = function(self._section.burned_in, "data.hygiene.burned_in")
        told = self._tell("reading text in images")
        shas = distinct(samples)
        became: dict[str, str] = {}
        doomed: dict[str, list[str]] = {}
        counts: Counter[str] = Counter()
        for done, sha in enumerate(shas, start=1):
            result, here = burned_in.masked(self._store.get(sha), reader, kinds)
            counts += here
            if found := personal.to_drop(here, kinds):
                doomed[sha] = found
            elif here:
                became[sha] = self._store.put(result)
            if told:
                told(done, len(shas))
        kept: list[Sample] = []
        gone: list[Gone] = []
        painted: set[str] = set()
        for sample in samples:
            if shown := sorted({kind for sha in sample.images for kind in doomed.get(sha, ())}):
                gone.append(Gone(sample, "personal data", f"its picture shows {', '.join(shown)}"))
                continue
            replaced = [became.get(sha, sha) for sha in sample.images]
            if replaced != sample.images:
                painted.update(sha for sha in sample.images if sha in became)
                sample = sample.model_copy(
                    update={"id": content_id(sample.id, replaced), "images": replaced,
                            "lineage": [*sample.lineage, sample.id]}
                )  # fmt: skip
            kept.append(sample)
        tally(self._report, "burned_in", images_painted=len(painted), **{self._dropped: len(gone)}, found=counts)
        return kept, gone

    def _single(self, pictures: Pictures, named: Named) -> Fallen:
        """Of near-duplicate pictures the largest stays; a sample goes when all of its own go."""
        radius = self._section.near_duplicates
        if radius is None or self._drawn:
            return {}
        pairs = dedup.image_pairs(pictures.prints.rows(pictures.first), radius)
        alike = sorted({number for pair in pairs for number in pair[:2]})
        place = {number: n for n, number in enumerate(alike)}
        owners = [sample.id for sample in named([int(pictures.owner[number]) for number in alike])]
        sizes: list[int] = pictures.sizes[pictures.first[np.array(alike, dtype=np.int64)]].tolist()
        rank = [(-size, owner) for size, owner in zip(sizes, owners, strict=True)]
        found = dedup.keep(len(alike), [(place[i], place[j], bits) for i, j, bits in pairs], rank)
        reason = {
            alike[n]: f"shows nearly the same as {owners[other]} ({bits:g} bits apart)"
            for n, (other, bits) in found.items()
        }
        chosen = np.zeros(len(pictures.first), dtype=np.bool_)
        chosen[list(reason)] = True
        places = pictures.all_in(chosen).tolist()
        gone = {
            at: Gone(sample, "near-duplicates", reason[pictures.of(at)[0]])
            for at, sample in zip(places, named(places), strict=True)
        }
        tally(self._report, "near_duplicates", pairs=len(pairs), **{self._dropped: len(gone)})
        self._report["near_duplicates"]["radius"] = radius
        return gone

    def _unseen(
        self, pictures: Pictures, evidence: Mapping[int, list[dict[str, Any]]], near: Fallen, named: Named
    ) -> Fallen:
        """Samples whose pictures stand in an evaluation set."""
        if self._benchmarks is None:
            return {}
        by_number = {pictures.number(row): hits for row, hits in evidence.items()}
        chosen = np.zeros(len(pictures.first), dtype=np.bool_)
        chosen[list(by_number)] = True
        places = [at for at in pictures.any_in(chosen).tolist() if at not in near]
        listed = self._report["decontamination"]["images"]
        name = "image" if self._dropped == "images_dropped" else "sample"
        gone: Fallen = {}
        for at, sample in zip(places, named(places), strict=True):
            hits = [one for number in dict.fromkeys(pictures.of(at)) for one in by_number.get(number, ())]
            listed.append({name: sample.id, "evidence": hits})
            first = hits[0]
            what = f"{first['found']}, likeness {first['likeness']}"
            reason = f"its picture is in {first['file']}, index {first['index']} ({what})"
            gone[at] = Gone(sample, "decontamination", reason)
        return gone


def licence(sample: Sample) -> str:
    """The licence of a sample's image as its annotation or its imported row states it (`licence` or `license`);
    `unknown` without one."""
    for place in (sample.extra, fields(sample), sample.scene or {}):
        for key in ("licence", "license"):
            if isinstance(value := place.get(key), str) and value.strip():
                return value.strip()
    return UNKNOWN


def fields(sample: Sample) -> dict[str, Any]:
    """The fields of the row that a sample was imported from, or of its DICOM header."""
    found = sample.extra.get("fields")
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _says_burned_in(sample: Sample) -> bool:
    """Whether the DICOM header says that its pixels hold text that names somebody."""
    return str(fields(sample).get("BurnedInAnnotation", "")).strip().upper() == "YES"


def _spelling(name: str) -> str:
    """One spelling of a licence's name: CC BY 4.0, cc-by-4.0."""
    return "-".join(name.casefold().replace("_", " ").replace("-", " ").split())

"""The steps of hygiene that look at pictures and at what came with them, for the vertical and the general set alike.

    licences → personal data (annotations, burned-in text) → near-duplicates → decontamination

A sample may show several pictures. It goes when one of them holds what is to be dropped or stands in an evaluation set,
and as a near-duplicate only when all of them are ones. A picture that several samples show is looked at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.data import burned_in, dedup, hashing, personal
from open4ov.data.decontaminate import Benchmarks, Evidence
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


class Look:
    """What is kept of pictures when they were looked at: prints, sizes, and what of them evaluation sets show."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.owners: dict[str, str] = {}
        """SHA-256 → the id of the first sample that shows it, in order"""
        for sample in samples:
            for sha in sample.images:
                self.owners.setdefault(sha, sample.id)
        self.shas = list(self.owners)
        self.prints = dedup.prints_of([])
        self.sizes: list[int] = []
        self.evidence: dict[str, list[Evidence]] = {}

    def take(self, store: ImageStore, benchmarks: Benchmarks | None, tell: Callable[[int, int], None] | None) -> None:
        """Looks at all pictures, a batch in memory at a time."""
        parts = [self.prints]
        for begin in range(0, len(self.shas), _BATCH):
            batch = self.shas[begin : begin + _BATCH]
            thumbnails: list[NDArray[np.uint8]] = []
            for sha in batch:
                picture = store.get(sha)
                self.sizes.append(picture.width * picture.height)
                thumbnails.append(hashing.thumbnail(picture))
                if tell:
                    tell(len(self.sizes), len(self.shas))
            parts.append(hashing.prints(np.stack(thumbnails)))
            if benchmarks is not None:
                found = zip(batch, benchmarks.pictures(thumbnails), strict=True)
                self.evidence |= {sha: evidence for sha, evidence in found if evidence}
        self.prints = hashing.joined(parts)


class PictureSteps:
    """The steps for one set of samples. `report` takes their counts; `dropped` is what those call what falls out."""

    def __init__(
        self, section: HygieneSection, store: ImageStore, benchmarks: Benchmarks | None, tell: Tell,
        report: dict[str, Any], dropped: str,
    ) -> None:  # fmt: skip
        self._section, self._store, self._benchmarks, self._tell = section, store, benchmarks, tell
        self._report, self._dropped = report, dropped
        self.look = Look([])

    def run(self, samples: Sequence[Sample], *, drawn: bool = False) -> tuple[list[Sample], list[Gone]]:
        """(the samples that stay, those that go). Of pictures that a corpus has `drawn`, nothing but contamination is
        looked for. Afterwards `look` holds what the pictures are like, if one of the steps had to know."""
        kept, gone = list(samples), list[Gone]()

        def after(step: Callable[[list[Sample]], tuple[list[Sample], list[Gone]]]) -> None:
            nonlocal kept, gone
            kept, dropped = step(kept)
            gone += dropped

        section = self._section
        if not drawn:
            after(self._licensed)
            after(self._without_tags)
            after(self._painted)
        splitting = section.val + section.test > 0 and not drawn
        if self._benchmarks is not None or splitting or (section.near_duplicates is not None and not drawn):
            self.look = Look(kept)
            self.look.take(self._store, self._benchmarks, self._tell("hashing images"))
            if not drawn:
                after(self._single)
            after(self._unseen)
        return kept, gone

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
        self._report["licences"] = {"found": dict(sorted(counted.items())), "dropped": len(gone)}
        return kept, gone

    def _without_tags(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        """Annotations and file names without personal data."""
        kinds = self._section.personal_data
        removed = Counter(kind for sample in samples for kind in sample.extra.get("metadata_removed", ()))
        part: dict[str, Any] = {"file_metadata_removed": dict(sorted(removed.items()))}
        flagged = sum(_says_burned_in(sample) for sample in samples)
        if flagged and not self._section.burned_in:
            part["said_to_be_burned_in"] = flagged  # nobody has looked for it
        if not kinds:
            if removed or len(part) > 1:
                self._report["personal_data"] = part
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
        part |= {"in_annotations": dict(sorted(counts.items())), self._dropped: len(gone)}
        self._report["personal_data"] = part
        return kept, gone

    def _painted(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        """Pictures with personal data in their pixels painted over; `lineage` names the original."""
        if not self._section.burned_in:
            return samples, []
        kinds = self._section.personal_data
        reader = function(self._section.burned_in, "data.hygiene.burned_in")
        told = self._tell("reading text in images")
        shas = list(Look(samples).owners)
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
        found = {"images_painted": len(painted), self._dropped: len(gone), "found": dict(sorted(counts.items()))}
        self._report["burned_in"] = found
        return kept, gone

    def _single(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        """Of near-duplicate pictures the largest stays."""
        radius, look = self._section.near_duplicates, self.look
        if radius is None:
            return samples, []
        pairs = dedup.image_pairs(look.prints, radius)
        rank = [(-size, look.owners[sha]) for size, sha in zip(look.sizes, look.shas, strict=True)]
        near = {
            look.shas[at]: f"shows nearly the same as {look.owners[look.shas[other]]} ({bits:g} bits apart)"
            for at, (other, bits) in dedup.keep(len(look.shas), pairs, rank).items()
        }
        kept: list[Sample] = []
        gone: list[Gone] = []
        for sample in samples:
            if sample.images and all(sha in near for sha in sample.images):
                gone.append(Gone(sample, "near-duplicates", near[sample.images[0]]))
            else:
                kept.append(sample)
        self._report["near_duplicates"] = {"pairs": len(pairs), self._dropped: len(gone), "radius": radius}
        return kept, gone

    def _unseen(self, samples: list[Sample]) -> tuple[list[Sample], list[Gone]]:
        """Samples whose pictures stand in no evaluation set."""
        if self._benchmarks is None:
            return samples, []
        listed = self._report["decontamination"]["images"]
        kept: list[Sample] = []
        gone: list[Gone] = []
        for sample in samples:
            evidence = [one for sha in dict.fromkeys(sample.images) for one in self.look.evidence.get(sha, ())]
            if not evidence:
                kept.append(sample)
                continue
            name = "image" if self._dropped == "images_dropped" else "sample"
            listed.append({name: sample.id, "evidence": [one.record() for one in evidence]})
            first = evidence[0]
            reason = f"its picture is in {first.file}, index {first.index} ({first.found}, likeness {first.likeness})"
            gone.append(Gone(sample, "decontamination", reason))
        return kept, gone


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

"""The steps of hygiene that look at questions and answers, for the vertical and the general set alike.

    personal data → near-duplicate questions → decontamination

What falls out says so in `extra["rejected_by"]` and `extra["reason"]`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from open4ov.answers import normalise
from open4ov.data import dedup, personal
from open4ov.data.conversations import questions
from open4ov.data.decontaminate import Benchmarks
from open4ov.data.hygiene_pictures import Gone
from open4ov.data.working import tally
from open4ov.recipe_hygiene import HygieneSection
from open4ov.sample import Sample


class TextSteps:
    """The steps for one set of samples. `report` takes their counts."""

    def __init__(self, section: HygieneSection, benchmarks: Benchmarks | None, report: dict[str, Any]) -> None:
        self._section, self._benchmarks, self._report = section, benchmarks, report

    def without_personal_data(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Texts masked, or their samples taken out."""
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
            if doomed := personal.to_drop(here, kinds):
                gone.append(rejected(sample, "personal_data", f"its text held {', '.join(doomed)}"))
            else:
                kept.append(sample)
        tally(self._report, "personal_data", in_texts=counts, samples_dropped=len(gone))
        return kept, gone

    def once(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Of nearly equal questions about one image the first stays. Questions about no image are told apart by a word
        that no likeness sees (3 + 4, 3 + 5): they are one only if their answers are equal too."""
        least = self._section.near_questions
        if least is None:
            return samples, []
        about: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for at, sample in enumerate(samples):
            key = tuple(sample.images) or ("answer", normalise(sample.answer or ""))
            about[key].append(at)
        reasons: dict[int, str] = {}
        for places in about.values():
            texts = ["\n".join(text for text, _ in questions(samples[at])) for at in places]
            pairs = dedup.text_pairs(texts, least)
            for at, (other, likeness) in dedup.keep(len(places), pairs, [(n, "") for n in range(len(places))]).items():
                reasons[places[at]] = f"asks nearly the same as {samples[places[other]].id} (Jaccard {likeness:.3f})"
        gone = [rejected(samples[at], "near_duplicate", reasons[at]) for at in sorted(reasons)]
        tally(self._report, "near_questions", samples_dropped=len(gone))
        self._report["near_questions"]["least"] = least
        return [sample for at, sample in enumerate(samples) if at not in reasons], gone

    def unasked(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Samples none of whose questions stands in an evaluation set."""
        if self._benchmarks is None:
            return samples, []
        listed = self._report["decontamination"]["questions"]
        kept: list[Sample] = []
        gone: list[Sample] = []
        for sample in samples:
            pictured = bool(sample.images)
            found = (self._benchmarks.asked(text, answer, pictured=pictured) for text, answer in _asked(sample))
            evidence = next((one for one in found if one), None)
            if evidence is None:
                kept.append(sample)
                continue
            listed.append({"sample": sample.id, "evidence": evidence.record()})
            reason = f"its question is in {evidence.file}, index {evidence.index} (overlap {evidence.likeness})"
            gone.append(rejected(sample, "decontamination", reason))
        return kept, gone

    def unasked_alone(self, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """`unasked`, for samples without a picture; all others stay."""
        _, gone = self.unasked([sample for sample in samples if not sample.images])
        away = {sample.id for sample in gone}
        return [sample for sample in samples if sample.id not in away], gone


def rejected(sample: Sample, by: str, reason: str) -> Sample:
    """The sample with who took it out and why."""
    return sample.model_copy(update={"extra": {**sample.extra, "rejected_by": by, "reason": reason}})


def as_rejected(gone: Sequence[Gone]) -> list[Sample]:
    """What the steps for pictures took out, in the form of a rejected sample."""
    return [rejected(one.sample, one.step.replace(" ", "_").replace("-", "_"), one.reason) for one in gone]


def _asked(sample: Sample) -> list[tuple[str, str | None]]:
    """Each question with its answer: the sample's own where it is the only one, else the reply that follows it."""
    turns = questions(sample)
    return [(turns[0][0], sample.answer)] if len(turns) == 1 else turns

"""Quality evaluation by judge voting (paper §2.2.4).

Three judges score every sample 0 or 1; a sample stays when at least `quorum` votes are 1. A vote is yes, no, abstain
(the judge answers that it cannot tell) or missing (it gave no usable answer; the reason is kept). Only a yes helps a
sample; `verdict` tells what was refused from what is undecided for want of votes. The paper's judges see (image, topic,
question); ours see the answer too, since a wrong image under a general question shows in the answer only. Of a
conversation they see all turns and images, and vote once (conversations.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from open4ov.data import conversations, votes
from open4ov.data.labels import LabelTree
from open4ov.mllm.answers import Judgement
from open4ov.mllm.ask import JUDGES, Asker, Picture, Prompt, Request
from open4ov.recipe import DataSection
from open4ov.sample import Sample, Vote

SAYS = ("yes", "no", "abstain", "missing")


def vote(
    asker: Asker,
    samples: Sequence[Sample],
    tree: LabelTree,
    pictures: Callable[[Sample], Sequence[Picture]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds the three votes to each sample, and what they took to its steps."""
    requests = [
        conversations.judge(judge, sample, pictures(sample), tree)
        if conversations.whole(sample)
        else Request(judge, Prompt("judge", triplet(sample, tree)), pictures(sample), Judgement)
        for sample in samples
        for judge in JUDGES
    ]
    answers = asker.ask_many(requests, progress)
    names = [asker.identity(judge) for judge in JUDGES]
    for number, sample in enumerate(samples):
        given = answers[number * len(JUDGES) : (number + 1) * len(JUDGES)]
        sample.votes = [
            Vote(judge=name, score=answer["score"], reason=answer["reason"])
            if isinstance(answer, dict)
            else Vote(judge=name, score=None, reason=f"no usable answer: {answer}", missing=True)
            for name, answer in zip(names, given, strict=True)
        ]
        template = conversations.template(JUDGES[0], whole=conversations.whole(sample), came=False)
        steps = [asker.step(judge, template, answer) for judge, answer in zip(JUDGES, given, strict=True)]
        sample.steps = [*sample.steps, *(step for step in steps if step is not None)]


def alike(section: DataSection) -> list[list[str]]:
    """Groups of judges who are sent the same bytes by one endpoint and model, without anything that draws their
    answers apart: not several opinions but one. Temperature 0 (or above it with the same seed), or one engine."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for judge in JUDGES:
        name = section.roles.get(judge) or section.roles.get("default") or "default"
        one = section.providers.get(name)
        if one is None or one.kind == "catalog":  # whose judges look at different evidence
            continue
        drawn = bool(one.temperature) and one.seed is None
        apart = judge if one.kind == "openai" and (drawn or one.temperature is None) else ""
        seed = one.seed if one.temperature else None
        what = (one.kind, one.base_url, one.model, one.temperature, seed, one.max_pixels, one.image_format)
        groups.setdefault((*what, apart), []).append(judge)
    return [group for group in groups.values() if len(group) > 1]


def warning(section: DataSection) -> str | None:
    """What to say about judges who are `alike`."""
    found = alike(section)
    if not found:
        return None
    return (
        f"{'; '.join(', '.join(group) for group in found)} ask one model the same question with nothing to draw the "
        "answers apart: one opinion, asked and paid for several times, and the quorum and the agreement of the votes "
        "say nothing. Give the judges other models under data.providers and data.roles, or a temperature above 0 "
        "(with a seed each)"
    )


def unmet_quorum(section: DataSection, own: bool) -> str:
    """What to say where nothing was kept because the catalog judges a folder of the user's `own`; else nothing."""
    named = [section.roles.get(judge) or section.roles.get("default") or "default" for judge in JUDGES[1:]]
    abstain = [name for name in named if (one := section.providers.get(name)) and one.kind == "catalog"]
    if not own or len(JUDGES) - len(abstain) >= section.quorum:
        return ""
    return (
        "Of a folder's pictures the catalog knows the annotation alone, so that one of its judges votes and the others "
        f"abstain: {section.quorum} votes (data.quorum) cannot be had. Set data.quorum to 1, or name models as judges "
        "(data.providers, data.roles). "
    )


def triplet(sample: Sample, tree: LabelTree) -> dict[str, Any]:
    """What a judge is told beside the image. Language and tags are for the catalog; the template shows the rest."""
    return {
        "topic": sample.topics[0],
        "question": sample.messages[0].text,
        "answer": sample.answer or "",
        "language": sample.language,
        "tags": tree.tags(sample.labels),
    }


@dataclass(frozen=True)
class Verdict:
    """What a panel's votes come to. `undecided`: short of the quorum, but the votes that are missing could still have
    made it; asking those judges again may keep the sample. `refused`: they could not."""

    outcome: Literal["kept", "refused", "undecided"]
    yes: int
    no: int
    abstain: int
    missing: int


def verdict(given: Sequence[Vote], quorum: int) -> Verdict:
    """Counts the votes against the quorum. An abstention is an answer: it never becomes a yes."""
    counts = Counter(one.said for one in given)
    yes, missing = counts["yes"], counts["missing"]
    outcome = "kept" if yes >= quorum else "undecided" if yes + missing >= quorum else "refused"
    return Verdict(outcome, yes, counts["no"], counts["abstain"], missing)


def kept(given: Sequence[Vote], quorum: int) -> bool:
    """At least `quorum` judges said yes. Abstentions and missing votes never help."""
    return verdict(given, quorum).outcome == "kept"


def agreement(samples: Sequence[Sample]) -> dict[str, Any]:
    """How the judges voted and agreed.

    `judges`: votes of 0, 1, abstentions and missing ones by judge; `agreement`: by pair of judges the share of equal
    votes and Cohen's kappa where both said yes or no; `kappa`: Fleiss' kappa of the panel over the samples on which all
    said yes or no, and `kappa_abstain` with abstention as a third answer, over those without missing votes, each with
    the number of samples it rests on.
    """
    return votes.agreement(votes.count(samples))

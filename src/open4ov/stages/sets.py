"""The stage `sets`: SFT's sets, held against the label tree of data construction and balanced by admission."""

from __future__ import annotations

from typing import TYPE_CHECKING

from open4ov.admission.balance import names
from open4ov.data import labels, topics
from open4ov.sample import Sample
from open4ov.sft import sets
from open4ov.stages.balance import balanced

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def run(run: StageRun) -> None:
    """The stage `sets`: SFT-Knowledge and SFT-Ability, of samples whose labels the run's label tree has."""
    tree = labels.load(run.recipe.data.labels)
    firsts = {(axis, name) for axis in labels.AXES for name in (*tree.names(axis), labels.OTHERS)}
    seconds = {(axis, l1.name, l2.name) for axis in labels.AXES for l1 in tree.axis(axis) for l2 in l1.l2}

    def known(sample: Sample) -> bool:
        return all(
            (one.axis, one.l1) in firsts and (one.l2 is None or (one.axis, one.l1, one.l2) in seconds)
            for one in sample.labels
        )

    def balance(name: sets.Name, samples: list[Sample]) -> list[Sample]:
        """The set with the shares that `admission.balance` asks for; figures, page and wishes lie beside it."""
        bare = [axis for axis in labels.AXES if not any(names(sample, axis) for sample in samples)]
        if bare:
            run.note(f"{sets.TITLES[name]}: is not balanced: no sample has a label on the axis {' or '.join(bare)}")
            return samples
        out, told = run.out / f"{name}_balance", list(topics.read(run.inputs["data"] / "topics.parquet"))
        return balanced(
            samples, section, out, run.images.get, run.seed, run.recipe.data.labels, told, run.progress
        ).samples

    section = run.recipe.admission.balance
    sets.build(run, known, balance if section.samples else None)

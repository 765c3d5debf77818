"""Rapid assessment put together: admission's judgement over SFT's training and the engine's answers (paper §3.2.2).

The stage `assess` of a run, and `assess` for `open4ov admit assess`: both leave verdict.json, failures.html,
feedback.yaml and answers.jsonl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4ov import asking, assets, training
from open4ov.admission import assess as rapid
from open4ov.admission import criteria, failing, failures_page, probe, stable
from open4ov.corpora import TASKS, generate
from open4ov.corpora.in_car.items import SOURCE
from open4ov.data import labels
from open4ov.data.language import answers_in
from open4ov.errors import RefusedError, UserError
from open4ov.formats.convert import located
from open4ov.model import Processor
from open4ov.recipe import Recipe
from open4ov.run_dir import fingerprint
from open4ov.sample import Label, Sample, content_id
from open4ov.sft import short
from open4ov.store import ImageStore, read_samples, write_json
from open4ov.verifier import Verifier
from open4ov.versions import Stores, digest

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Progress = Callable[[str, float, float], None]
IN_CAR, GENERAL = "corpus:in_car", "corpus:general"
LONGEST = 96
"""Most tokens of an answer to a probe"""


@dataclass
class Assessed:
    """What is assessed and against what: the new data, the general set (training and held out), and where questions
    come from. `id`: of what of the new data can be trained on, as it came; `rounds[r]`: the questions of round r by
    probe; `probe` says where they are from, for people; `labels`: the label tree's version."""

    name: str
    id: str
    batch: list[Sample]
    general: list[Sample]
    rounds: list[dict[str, list[Sample]]]
    probe: str
    store: ImageStore
    labels: int
    warnings: list[str] = field(default_factory=list[str])


def run(run: StageRun) -> None:
    """The stage `assess`. Refuses the data when the verdict is to reject (or open, as the recipe has it)."""
    recipe, section = run.recipe, run.recipe.admission.assess
    new = read_samples(run.inputs["data"] / "samples.parquet")
    general = read_samples(run.inputs["data"] / "general.parquet")
    given = gather(recipe, new, general, run.images, run.seed, "the data of this run", progress=run.progress)
    for line in given.warnings:
        run.note(line)
    told = assess(recipe, given, run.out, run.scratch, run.seed, run.progress)
    for line in told["warnings"][len(given.warnings) :]:
        run.note(line)
    run.note(told["why"])
    write_json(run.out / "summary.json", {"verdict": told["verdict"], "rounds": len(told["looks"])})
    action = {"admit": "go_on", "reject": section.on_reject, "undecided": section.on_undecided}[told["verdict"]]
    if action == "stop":
        option = "on_reject" if told["verdict"] == "reject" else "on_undecided"
        raise RefusedError(
            f"assess: {told['why']}. Look at failures.html and feedback.yaml; `data` stays as it is. To train on these "
            f"data nevertheless, set admission.assess.{option}: go_on"
        )


def gather(
    recipe: Recipe,
    new: Sequence[Sample],
    general: Sequence[Sample],
    store: ImageStore,
    seed: int,
    name: str,
    symbols: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Assessed:
    """The batch, and questions for all rounds. Raises UserError for data that cannot be assessed: empty, pictures
    missing, or no or too few questions.

    `symbols`: of the in-car corpus, which to ask about.
    """
    section = recipe.admission.assess
    batch = list(stable.assessable(new))
    if not batch:
        raise UserError(f"{name}: {len(new)} samples, none of split train with messages; there is nothing to assess")
    judged = stable.assessable_id(new)
    _pictures(batch, store, name)
    tree = labels.load(recipe.data.labels)
    batch, unknown = _under_known_labels(batch, tree, name)
    wanted = section.questions * section.rounds
    if section.probe:
        source = f"The vertical's questions are those of {Path(section.probe).name}."
        file, theirs = located(Path(section.probe))
        questions = probe.from_samples(read_samples(file), f"admission.assess.probe: {section.probe}", split=None)
        store = Stores(store, theirs)
    elif recipe.images.vertical == IN_CAR and {sample.source for sample in batch} == {SOURCE}:
        source = "The vertical's questions are drawn by the corpus (split val)."
        report = (
            None if progress is None else lambda done, total: progress("drawing the vertical's questions", done, total)
        )
        questions = probe.in_car_questions(wanted, seed, store, symbols, report)
    else:
        source = (
            "The vertical's questions are the new data's own, of split val: their answers are only as good as the data "
            "(admission.assess.probe names a set that can be trusted)."
        )
        questions = probe.from_samples(
            new, name, hint="data.hygiene.val sets some aside; admission.assess.probe names others"
        )
    vertical = probe.blocks(questions, section.questions, section.rounds, seed)
    count = section.general_questions * section.rounds
    held = [sample for sample in general if sample.split != "train"]
    if not held and recipe.images.general == GENERAL:
        report = None if progress is None else lambda done, total: progress("drawing general questions", done, total)
        held = probe.general_questions(count, seed, store, report)
    else:
        held = probe.from_samples(general, "the general set")
    others = probe.blocks(held, section.general_questions, section.rounds, seed)
    rounds = [{"vertical": mine, "general": theirs} for mine, theirs in zip(vertical, others, strict=False)]
    warnings = unknown + criteria.warnings(section, *(sum(len(r[p]) for r in rounds) for p in ("vertical", "general")))
    if len(rounds) < section.rounds:
        warnings.append(f"questions for {len(rounds)} rounds only (admission.assess.rounds = {section.rounds})")
    for block in rounds:
        _pictures([*block["vertical"], *block["general"]], store, "the held-out questions")
    if "own, of split val" in source:
        warnings.append(source)
    replay = [s for s in general if s.split == "train" and s.messages]
    given = f"admission.assess.probe: {section.probe}" if section.probe else None
    batch, replay, shared = probe.apart(rounds, batch, replay, given)
    warnings += shared
    return Assessed(
        name,
        judged,
        batch,
        replay,
        rounds,
        source,
        store,
        tree.version,
        warnings,
    )


def draw_general(recipe: Recipe, store: ImageStore, progress: Progress | None = None) -> list[Sample]:
    """General samples to replay, drawn by the corpus, as many as a run of this recipe draws. Raises UserError when the
    recipe's general set is no corpus."""
    if recipe.images.general != GENERAL:
        raise UserError(f"--general is missing: images.general is {recipe.images.general}; give the general set itself")
    count = recipe.images.general_count
    found: list[Sample] = []
    for number, task in enumerate(TASKS):
        share = count * (number + 1) // len(TASKS) - count * number // len(TASKS)
        found += [item.store(store) for item in generate(task, "train", share, recipe.seed)]
        if progress:
            progress("drawing the general set", number + 1, len(TASKS))
    return found


def assess(
    recipe: Recipe,
    given: Assessed,
    out: Path,
    scratch: Path,
    seed: int,
    progress: Progress | None = None,
    base_answers: Path | None = None,
) -> dict[str, Any]:
    """Assesses, writes the four files to `out`, and gives the contents of verdict.json."""
    section, store = recipe.admission.assess, given.store
    start = assets.base_dir(recipe.model)
    scratch = scratch / _key(recipe, given, seed)  # what was made for other data or options is not gone on with
    own = probe.blocks([s for s in given.batch if _askable(s)], section.own_questions, 1, seed)
    with Verifier(recipe.sft.verifier, recipe.admission.mastery.verifier_seconds, "sft.verifier") as verifier:
        found = rapid.assess(
            start,
            given.rounds,
            own[0] if own and section.own_questions else [],
            lambda seed, folder: short.train(recipe, start, given.batch, given.general, store, seed, folder, progress),
            Asking(recipe, store, progress),
            rapid.Checks(partial(asking.verdicts, verifier=verifier), answers_in),
            section,
            seed,
            scratch,
            base_answers,
        )
    warnings = list(given.warnings)
    if silent := [one for one in found.asked if one.unjudged]:
        what = "these questions count for the language alone"
        warnings.append(asking.unjudged(len(silent), len(found.asked), silent[0].unjudged, what))
    seen = failing.flaws(given.batch, answers_in)
    about = {
        "name": given.name,
        "probe": given.probe,
        "warnings": warnings,
        "batch": {
            "id": given.id,
            "samples": len(given.batch),
            "other_language": len(seen.language),
            "contradicting": len(seen.contradicting),
        },
        "tokens": section.tokens,
        "seeds": [seed + number for number in range(len(found.models))],
    }
    told = rapid.record(found, section, about)
    questions = {s.id: s for block in given.rounds for part in block.values() for s in part}
    questions |= {s.id: s for s in (own[0] if own else [])}
    groups = [g for p in ("vertical", "general") for g in failing.groups(found.judged, questions, given.batch, p)]
    wishes = failing.wishes(groups, found.verdict, seen, section.gain)
    out.mkdir(parents=True, exist_ok=True)
    rapid.write_answers(out / "answers.jsonl", found.asked)
    failures_page.write(out / "failures.html", told, groups, wishes, questions, store.get)
    source = f"rapid assessment of {given.name}: {found.verdict}"
    failing.feedback(wishes, source, str(given.labels)).write(out / "feedback.yaml")
    write_json(out / "verdict.json", told)
    return told


@dataclass(frozen=True)
class Asking:
    """How the models are asked: on `sft.device`, in `sft.precision`."""

    recipe: Recipe
    store: ImageStore
    progress: Progress | None = None

    def __call__(self, model: Path, questions: Sequence[Sample], what: str) -> list[str]:
        """A model's greedy answer to the last question of each sample."""
        section, progress = self.recipe.sft, self.progress
        network = asking.model_of(model, section.precision, training.device(section.device, "sft.device"))
        processor = Processor.from_pretrained(model)
        report = None if progress is None else lambda done, total: progress(what, done, total)
        return asking.answers(
            network, processor, questions, self.store.get, section.precision, lambda _: LONGEST, report
        )

    def identity(self, model: Path) -> str:
        """A digest of the model's files, and of what its answers are computed with."""
        device = training.device(self.recipe.sft.device, "sft.device")
        kind = training.kind(self.recipe.sft.precision, device)
        return content_id(fingerprint(path for path in model.iterdir() if path.is_file()), kind, device.type, LONGEST)


def _under_known_labels(samples: Sequence[Sample], tree: labels.LabelTree, name: str) -> tuple[list[Sample], list[str]]:
    """The samples without labels that the tree does not have (nothing could be asked for under them), and what to say
    of those."""
    counts: Counter[str] = Counter()
    kept: list[Sample] = []
    for sample in samples:
        known = [one for one in sample.labels if _known(one, tree)]
        counts.update({f"{one.axis}: {one.l1}" + (f" ~ {one.l2}" if one.l2 else "") for one in sample.labels})
        counts.subtract({f"{one.axis}: {one.l1}" + (f" ~ {one.l2}" if one.l2 else "") for one in known})
        kept.append(sample if len(known) == len(sample.labels) else sample.model_copy(update={"labels": known}))
    strange = sorted(label for label, count in counts.items() if count > 0)
    if not strange:
        return kept, []
    some = "; ".join(f"{label} ({counts[label]} samples)" for label in strange[:3])
    return kept, [f"{name}: {len(strange)} labels are not in the label tree and count for none: {some}"]


def _known(label: Label, tree: labels.LabelTree) -> bool:
    if label.l2 is None:
        return label.l1 in tree.names(label.axis)
    return tree.find(label.axis, label.l1, label.l2) is not None


def _key(recipe: Recipe, given: Assessed, seed: int) -> str:
    options = [recipe.model, recipe.threads, recipe.admission.assess.tokens, recipe.sft.model_dump(mode="json")]
    return content_id("assess", options, digest(given.batch), digest(given.general), seed)


def _askable(sample: Sample) -> bool:
    return bool(sample.answer) and [m.role for m in sample.messages] == ["user", "assistant"]


def _pictures(samples: Iterable[Sample], store: ImageStore, name: str) -> None:
    """Raises UserError when a picture is not there, with the first sample and how many."""
    missing = [(s.id, sha) for s in samples for sha in s.images if not store.path(sha).exists()]
    if missing:
        sample, sha = missing[0]
        raise UserError(
            f"{name}: {len(missing)} pictures are missing; the first: sample {sample}, {store.path(sha)}. Bring them "
            "back, or take these samples out"
        )

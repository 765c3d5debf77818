"""The three sets that SFT is trained on (paper §3.1): SFT-Knowledge, SFT-Ability and SFT-Preference.

SFT-Knowledge holds what construction kept of the vertical, SFT-Ability the general set (a corpus's, a folder's, or one
that `open4ov data import` made), SFT-Preference what `preference_data.py` makes of the two. Each is a version
(`versions.py`) of what is trained on, with `val.parquet` beside it: what is kept apart. The stage `sets` writes the
first two, `preference_set` the third, so that a change of stage 3 leaves what stage 1 was trained on as it is.

What is left out is counted by its reason: a sample without messages or with an empty answer teaches nothing, split
`test` is nobody's to train on, and a label that the tree does not have means that labels and tree have parted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from open4ov import versions
from open4ov.errors import UserError
from open4ov.picture_groups import PictureGroups
from open4ov.run_dir import read_json
from open4ov.sample import Sample, Step
from open4ov.sft import curriculum, preference_data
from open4ov.store import read_samples, write_json, write_samples
from open4ov.versions import Parent

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Name = Literal["knowledge", "ability"]
FILES: dict[Name, str] = {"knowledge": "samples.parquet", "ability": "general.parquet"}
"""What of the stage `data` each set is made of"""

TITLES = {"knowledge": "SFT-Knowledge", "ability": "SFT-Ability", "preference": "SFT-Preference"}
Known = Callable[[Sample], bool]
"""Whether the label tree has all labels of a sample"""

Balance = Callable[[Name, list[Sample]], list[Sample]]
"""The name of a set and its samples to train on -> those of the balanced set (paper §3.2.2)"""

NO_MESSAGES, NO_ANSWER, TEST, UNKNOWN = (
    "without messages",
    "an empty answer",
    "split test",
    "a label that is not in the tree",
)


def build(run: StageRun, known: Known, balance: Balance | None = None) -> None:
    """The stage `sets`: writes knowledge/ and ability/, and summary.json with what is in them and what was left out."""
    summary: dict[str, Any] = {}
    found = {name: read_samples(run.inputs["data"] / file) for name, file in FILES.items()}
    fit = {name: admitted(samples, known) for name, samples in found.items()}
    # of both at once: a picture of one set is replayed with the other
    sides = iter(held_out([one for kept, _ in fit.values() for one in kept], run.recipe.sft.held_out, run.seed))
    for name, file in FILES.items():
        kept, left_out = fit[name]
        train, val = list[Sample](), list[Sample]()
        for sample in kept:
            (val if next(sides) else train).append(sample)
        if balance is not None:
            train = balance(name, train)
        parents = [Parent(name=f"data/{file}", id=_digest(run.inputs["data"] / file), samples=len(train) + len(val))]
        summary[name] = _write(run.out / name, name, train, val, parents)
        if left_out:
            summary[name]["left_out"] = {reason: len(ids) for reason, ids in left_out.items()}
            summary[name]["examples"] = {reason: ids[:5] for reason, ids in left_out.items()}
            told = ", ".join(f"{len(ids)} {reason}" for reason, ids in left_out.items())
            run.note(f"{TITLES[name]}: of {len(found[name])} samples left out: {told}")
        if name == "ability" and isinstance(run.recipe.sft.ability.blend, dict) and train:
            curriculum.by_hand(run.recipe.sft.ability.blend, train)  # a misspelt ability, before stage 1 is trained
        if not train:
            summary[name]["empty"] = _why_empty(run, name, len(found[name]), summary[name])
    write_json(run.out / "summary.json", summary)


def build_preference(run: StageRun) -> None:
    """The stage `preference_set`: writes preference/, preference.json (what the set is made of, what fell out and why)
    and summary.json."""
    given = run.inputs["sets"]
    count = max(64, run.recipe.sft.preference.tokens // 200)
    single = {name: training(given / name) for name in FILES}
    apart = {name: validation(given / name) for name in FILES}
    held = [sample for samples in apart.values() for sample in samples]
    told = preference_data.for_run(run, [*single["knowledge"], *single["ability"]], count, held)
    made, val = told.samples, told.validation
    used = {parent for sample in [*made, *val] for parent in sample.lineage}
    parents = [
        Parent(
            name=f"sets/{name}",
            id=versions.read(given / name).id,
            samples=sum(sample.id in used for sample in [*single[name], *apart[name]]),
        )
        for name in FILES
    ]
    for sample in val:
        sample.split = "val"
    summary = _write(run.out / "preference", "preference", made, val, parents)
    if not made:
        summary["empty"] = "none of its kinds can be made of SFT-Knowledge and SFT-Ability"
    kinds = Counter(f"{sample.extra.get('preference')} {sample.language}" for sample in made)
    write_json(run.out / "preference.json", told.report)
    write_json(run.out / "summary.json", {"preference": {**summary, "kinds": dict(sorted(kinds.items()))}})


def training(folder: Path) -> list[Sample]:
    """What of a set is trained on. Raises UserError for a folder that is no version, or that has been changed."""
    return versions.samples(folder)


def validation(folder: Path) -> list[Sample]:
    """What of a set is kept apart."""
    return read_samples(folder / "val.parquet")


def admitted(samples: Iterable[Sample], known: Known) -> tuple[list[Sample], dict[str, list[str]]]:
    """(the samples that can be trained on or validated with, reason -> ids of the others)."""
    kept: list[Sample] = []
    left_out: dict[str, list[str]] = {}
    for sample in samples:
        if reason := _unfit(sample, known):
            left_out.setdefault(reason, []).append(sample.id)
        else:
            kept.append(sample)
    return kept, left_out


def _unfit(sample: Sample, known: Known) -> str:
    if not sample.messages:
        return NO_MESSAGES
    if sample.split == "test":
        return TEST
    answers = [message.text.strip() for message in sample.messages if message.role == "assistant"]
    if sample.messages[-1].role != "assistant" or not all(answers):
        return NO_ANSWER
    return "" if known(sample) else UNKNOWN


def held_out(samples: Sequence[Sample], share: float, seed: int) -> list[bool]:
    """Which samples are kept apart: those of split `val`, and a share of the others by their pictures, so that no
    picture is on both sides.

    A group's side comes from a hash of its name and the seed: samples that are added leave the others where they are,
    but for those whose pictures they show together, or of which they say that they are `val`.
    """
    together = PictureGroups(samples)
    aside = {together.of(sample) for sample in samples if sample.split == "val"}

    def chosen(name: str) -> bool:
        return name in aside or _place(f"held out/{seed}/{name}") < share

    return [chosen(together.of(sample)) for sample in samples]


def _place(name: str) -> float:
    """A number in [0, 1) for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _write(
    folder: Path, name: str, train: Sequence[Sample], val: Sequence[Sample], parents: list[Parent]
) -> dict[str, Any]:
    """Writes a set, and gives what the summary tells of it."""
    joined = Step(stage="set", by=TITLES[name])
    made = [sample.model_copy(update={"steps": [*sample.steps, joined], "split": "train"}) for sample in train]
    version = versions.describe(made, name, parents, note=TITLES[name])
    versions.write(folder, made, version)
    apart = [sample.model_copy(update={"steps": [*sample.steps, joined], "split": "val"}) for sample in val]
    write_samples(folder / "val.parquet", apart)
    return {"id": version.id, "train": len(made), "val": len(apart), "left_out": {}}


def _why_empty(run: StageRun, name: Name, found: int, about: dict[str, Any]) -> str:
    if found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in about["left_out"].items())
        aside = f"{about['val']} are kept apart" if about["val"] else ""
        return f"of the {found} samples in data/{FILES[name]} {'; '.join(filter(None, (reasons, aside)))}"
    if name == "ability" and run.recipe.images.general_count == 0:
        return "images.general_count is 0"
    return f"data/{FILES[name]} has no sample"


def check(given: Path, name: str, samples: Sequence[Sample], what: str) -> None:
    """Raises UserError where a stage needs a set that is empty, with the reason that `summary.json` gives."""
    if samples:
        return
    record = read_json(given / "summary.json") or {}
    reason = record.get(name, {}).get("empty", "")
    raise UserError(f"{what}: {TITLES[name]} is empty{f': {reason}' if reason else ''}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

"""Human preference data (paper §4.1.2): pairs from files in the usual formats, with their attributes.

A pair is a Sample: `messages` end with the chosen response, `rejected` holds the other, `extra["pair"]` says of which
kind it is (`recipe_dpo.GIVEN`), `extra["attributes"]` what people said of it (`mix.lead` reads the values).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from open4ov.errors import UserError
from open4ov.formats.convert import RECORD, SAMPLES, STORE, import_set, located
from open4ov.recipe_dpo import GIVEN
from open4ov.rl.preference.screen import is_pair
from open4ov.sample import Message, Sample, assistant, content_id
from open4ov.store import ImageStore, iter_samples

Note = Callable[[str], None]


def make_pair(
    sample: Sample,
    chosen: str,
    rejected: str,
    kind: str,
    *,
    prompt: Sequence[Message] | None = None,
    images: Sequence[str] | None = None,
    **told: Any,
) -> Sample:
    """A pair of two responses to a sample's prompt, or to another `prompt` with `images` that is made of it. `told`
    goes into `extra`, but for what is empty."""
    prompt = list(sample.messages[:-1] if prompt is None else prompt)
    images = list(sample.images if images is None else images)
    extra = {**sample.extra, "pair": kind, **{name: value for name, value in told.items() if value}}
    return sample.model_copy(
        update={
            "id": content_id("pair", kind, [m.model_dump() for m in prompt], images, chosen, rejected),
            "images": images,
            "messages": [*prompt, assistant(chosen)],
            "rejected": [assistant(rejected)],
            "lineage": [*sample.lineage, sample.id],
            "extra": extra,
        }
    )


def correction(sample: Sample) -> Sample | None:
    """The pair of what a reviewer wrote and what stood there before (`open4ov review`); None where the response was not
    corrected, or the question was."""
    before = cast("dict[str, Any]", sample.extra.get("before_fix") or {})
    rejected, asked = before.get("response"), before.get("question")
    if [m.role for m in sample.messages[-2:]] != ["user", "assistant"] or not isinstance(rejected, str):
        return None
    question = next(m.text for m in sample.messages if m.role == "user")
    if rejected.strip() == sample.messages[-1].text.strip() or (asked is not None and asked != question):
        return None
    return make_pair(sample, sample.messages[-1].text, rejected, "corrective")


def read(
    path: str | Path, format: str = "auto", *, images: ImageStore | None = None, note: Note | None = None
) -> list[Sample]:
    """The pairs of a file or folder: of ours (an import, a version, a reviewed set, a run), or in a format that
    `open4ov data import` reads.

    Samples that a reviewer has corrected become pairs of kind `corrective`; pairs without a kind are `human`. Pictures
    are copied into the store `images` (None: nobody needs them). `note` is told what was left out. Raises UserError for
    a path that is none, or that holds no pair.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if _ours(path):
        found, store = located(path)
        return _pairs(path, iter_samples(found), store, images, note)
    with tempfile.TemporaryDirectory(prefix="open4ov-pairs-") as temporary:
        out = Path(temporary) / "import"
        done = import_set(path, out, format)
        if done.refused and note:
            some = "; ".join(done.examples) + ("; ..." if done.refused > len(done.examples) else "")
            note(f"{path.name}: {done.refused} rows refused: {some}")
        return _pairs(path, iter_samples(out / SAMPLES), ImageStore(out / STORE), images, note)


def _ours(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).exists() for name in (RECORD, SAMPLES, "run.json"))
    return path.suffix == ".parquet" and (path.parent / STORE).is_dir()


def _pairs(
    path: Path, samples: Iterable[Sample], store: ImageStore, images: ImageStore | None, note: Note | None
) -> list[Sample]:
    found: list[Sample] = []
    others = 0
    for sample in samples:
        pair = sample if is_pair(sample) else correction(sample)
        if pair is None:
            others += 1
            continue
        found.append(pair if pair.extra.get("pair") in GIVEN else _of_kind(pair, "human"))
    if not found:
        raise UserError(
            f"{path}: none of {others} samples is a preference pair; see docs/dpo.md for the formats that hold them"
        )
    if others and note:
        note(f"{path.name}: {others} samples are no preference pairs, and are left out")
    if images is not None and images.root.resolve() != store.root.resolve():
        for sha in dict.fromkeys(_pictures(found)):
            if store.path(sha).exists() and not images.path(sha).exists():
                images.put(store.get(sha))
    return found


def _pictures(pairs: Iterable[Sample]) -> Iterator[str]:
    for pair in pairs:
        yield from pair.images


def _of_kind(pair: Sample, kind: str) -> Sample:
    return pair.model_copy(update={"extra": {**pair.extra, "pair": kind}})

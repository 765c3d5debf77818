"""The SFT-Preference set (paper §3.2.3, stage 3), built from samples that are at hand.

Its kinds, and where they are made:

- text_only, unrelated_image, related_image, unrelated_dialogue: `preference/relevance.py`
- markdown, human, concise, usual: `preference/styles.py`, and by a model where there is one `preference/rewrite.py`
- long_context, needle: `preference/long.py`
- high_difficulty: `preference/hard.py`, beside the others' number

A sample is made of samples of one split, and is of that split: nothing of a training sample is in a validation sample.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from open4ov.errors import UserError, nearest
from open4ov.recipe_preference import SHARES, PreferenceSection
from open4ov.sample import Sample
from open4ov.sft.preference import pool as pools
from open4ov.sft.preference.draft import Book, Draft
from open4ov.sft.preference.long import Long, estimate
from open4ov.sft.preference.relevance import Relevance
from open4ov.sft.preference.styles import Styles

if TYPE_CHECKING:
    from open4ov.graph import StageRun

KINDS = SHARES
LONGEST = 2048
"""Tokens of the longest conversation, where nobody says otherwise."""
TRIES = 8
"""Draws a sample of a kind, on average, before the kind counts as exhausted."""


@dataclass
class Made:
    """A preference set, and what can be said of it: see `report`. `validation`: what was made of what is kept apart."""

    samples: list[Sample]
    report: dict[str, Any] = field(default_factory=dict[str, Any])
    validation: list[Sample] = field(default_factory=list[Sample])

    def notes(self) -> list[str]:
        """What a user should look at, a line each."""
        fell, short = self.report.get("fell_out", {}), self.report.get("short", {})
        return [
            *(f"preference set: no {kind}: {reason}" for kind, reason in fell.items()),
            *(f"preference set: {kind}: {reason}" for kind, reason in short.items()),
        ]


class _Source(Protocol):
    def missing(self, kind: str) -> str | None: ...

    def draw(self, kind: str, rng: random.Random) -> Draft | None: ...


def build(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` preference samples with the default shares (fewer if so many different ones cannot be made)."""
    return compose(samples, count, seed).samples


def compose(
    samples: Sequence[Sample],
    count: int,
    seed: int,
    section: PreferenceSection | None = None,
    length: Callable[[Sample], int] = estimate,
    longest: int = LONGEST,
    hard: Sequence[Sample] = (),
    book: Book | None = None,
) -> Made:
    """`count` preference samples made of single-question samples, in random order, and the `hard` ones beside them.

    length: tokens of a sample; longest: most tokens of one; book: what was asked before, if anything. Kinds whose
    ingredients are missing fall out, and the others take their place: the report says which and why (`fell_out`), as it
    does of kinds that ran out of different samples (`short`). Raises UserError for a kind that is none.
    """
    section = section or PreferenceSection()
    for kind in section.shares:
        if kind not in SHARES:
            raise UserError(f"sft.preference_set.shares: unknown kind '{kind}'{nearest(kind, SHARES)}")
    splits = Counter(sample.split for sample in samples)
    made: list[Sample] = []
    notes: dict[str, dict[str, Any]] = {}
    book = book or Book()
    for split, given in sorted(splits.items()):
        part = [sample for sample in samples if sample.split == split]
        found, notes[split] = _split(part, round(count * given / len(samples)), seed, section, length, longest, book)
        made += found
    random.Random(f"preference order {seed}").shuffle(made)
    fit = [sample for sample in hard if book.admits(sample)]
    most = round(section.hard_share * len(made)) if made else len(fit)
    allowed = fit if most >= len(fit) else random.Random(f"preference hard {seed}").sample(fit, most)
    fullest = max(splits, key=splits.__getitem__) if splits else ""
    about = {**notes.get(fullest, {}), **({"splits": notes} if len(notes) > 1 else {})}
    if hard:
        about["hard"] = {"given": len(hard), "taken": len(allowed)}
    return Made([*made, *allowed], {**report([*made, *allowed]), **about})


def report(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many samples of each kind, language, style and split there are, and how often their checks hold."""
    kinds: dict[str, Counter[str]] = {}
    styles: dict[str, Counter[str]] = {}
    checks: dict[str, Counter[bool]] = {}
    for sample in samples:
        kind = str(sample.extra.get("preference", ""))
        kinds.setdefault(kind, Counter())[sample.language] += 1
        if "style" in sample.extra:
            styles.setdefault(str(sample.extra["style"]), Counter())[sample.language] += 1
        for name, holds in sample.checks.items():
            checks.setdefault(name, Counter())[holds] += 1
    return {
        "samples": len(samples),
        "kinds": {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())},
        "styles": {style: dict(sorted(counts.items())) for style, counts in sorted(styles.items())},
        "splits": dict(sorted(Counter(sample.split for sample in samples).items())),
        "checks": {name: {"hold": c[True], "fail": c[False]} for name, c in sorted(checks.items())},
    }


def for_run(run: StageRun, samples: Sequence[Sample], count: int, held: Sequence[Sample] = ()) -> Made:
    """The set as the run's recipe wants it: shares, long conversations up to the stage's limit by the model's own
    tokenizer, an earlier run's failed tasks, and styles written by a model where `data.roles.preference` names one.

    held: what is kept apart, of which a tenth of `count` is made for validation: no conversation that is trained on.

    Tells the user what fell out. Raises UserError for a file of failed tasks that is none, or a role that the catalog
    cannot play.
    """
    from open4ov import assets
    from open4ov.mllm import Asker, Picture
    from open4ov.model import Processor
    from open4ov.sft.encoding import Encoder
    from open4ov.sft.preference import hard, rewrite

    sft = run.recipe.sft
    stage = "knowledge" if sft.schedule == "random_mix" else "preference"
    encoder = Encoder(Processor.from_pretrained(assets.base_dir(run.recipe.model)), run.images)
    failed, left_out = hard.read(sft.preference_set.hard, run.images) if sft.preference_set.hard else ([], {})
    section, longest, book = sft.preference_set, sft.pack_of(stage), Book()
    made = compose(samples, count, run.seed, section, encoder.length, longest, failed, book)
    if held:
        made.validation = compose(held, count // 10, run.seed, section, encoder.length, longest, book=book).samples
    if sft.preference_set.hard:
        made.report["hard"] = {**made.report.get("hard", {"given": 0, "taken": 0}), "left_out": left_out}
        if not failed:
            run.note(f"sft.preference_set.hard: no failed task to learn in advance ({left_out or 'the file is empty'})")
    if rewrite.ROLE in run.recipe.data.roles:

        def picture(sha: str) -> Picture:
            return Picture(sha, lambda: run.images.get(sha), None, lambda: run.images.png(sha))

        with closing(Asker(run.recipe.data, place=run.images.root.parent)) as asker:
            made.samples, counts = rewrite.rewrite(
                made.samples, asker, picture, lambda done, total: run.progress("rewriting in a style", done, total)
            )
        made.report["rewritten"] = counts
    for line in made.notes():
        run.note(line)
    return made


def _split(
    samples: Sequence[Sample],
    count: int,
    seed: int,
    section: PreferenceSection,
    length: Callable[[Sample], int],
    longest: int,
    book: Book,
) -> tuple[list[Sample], dict[str, Any]]:
    """About `count` samples made of those of one split, and what there is to say of it."""
    pool = pools.gather(samples)
    relevance, styles = Relevance(pool), Styles(pool)
    far = Long(pool, length, longest, section.pictures)
    sources: dict[str, _Source] = {
        **dict.fromkeys(("text_only", "unrelated_image", "related_image", "unrelated_dialogue"), relevance),
        **dict.fromkeys(("markdown", "human", "concise", "usual"), styles),
        **dict.fromkeys(("long_context", "needle"), far),
    }
    shares = {kind: share for kind, share in section.shares.items() if share > 0}
    fell_out = {kind: reason for kind in shares if (reason := sources[kind].missing(kind))}
    left = {kind: share for kind, share in shares.items() if kind not in fell_out}
    rng = random.Random(f"preference {seed}")
    made, short = list[Sample](), dict[str, str]()
    repeated, contradicted = book.repeated, book.contradicted
    wanted = _quotas(left, count)
    while left and (missing := sum(wanted.values())):
        for kind, number in wanted.items():
            found = _fill(sources[kind], kind, number, book, rng)
            made += found
            if len(found) < number:
                have = sum(s.extra["preference"] == kind for s in made)
                short[kind] = f"no more than {have} different ones can be made of these samples"
                del left[kind]
        wanted = _quotas(left, count - len(made))
        if missing == sum(wanted.values()):
            break
    about = {
        "fell_out": fell_out,
        "short": short,
        "left_out": dict(sorted(pool.left_out.items())),
        "repeated": book.repeated - repeated,
        "contradicted": book.contradicted - contradicted,
    }
    return made, about


def _fill(source: _Source, kind: str, number: int, book: Book, rng: random.Random) -> list[Sample]:
    """Up to `number` different samples of a kind; fewer when `TRIES` draws a sample do not find them."""
    made: list[Sample] = []
    for _ in range(TRIES * number + 50):
        if len(made) == number:
            break
        draft = source.draw(kind, rng)
        sample = book.take(draft) if draft is not None else None
        if sample is not None:
            made.append(sample)
    return made


def _quotas(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` shared out, by largest remainders."""
    total = sum(shares.values())
    if count < 1 or total <= 0:
        return {}
    exact = {kind: count * share / total for kind, share in shares.items()}
    quotas = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(exact, key=lambda k: (quotas[k] - exact[k], k))[: count - sum(quotas.values())]:
        quotas[kind] += 1
    return {kind: number for kind, number in quotas.items() if number}

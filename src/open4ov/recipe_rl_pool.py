"""`rl.pool` and `rl.leakage`: which tasks online RL is given, and what each source of them must pass (paper §4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe

SourceKind = Literal["corpora", "data", "sft", "set", "documents"]
ROLE = "rl_pool"
"""Of `data.roles`: who judges a sample of each source"""
_NAMED: tuple[SourceKind, ...] = ("set", "documents")
"""Kinds that are folders"""
_POOL: Loc = ("rl", "pool")
_GIVEN = {"cloze", "answer_words", "near_questions", "judged", "queue", "decisions", "screened"}
"""Options for what others have made"""


class SourceSection(Section):
    """One source of tasks."""

    kind: SourceKind = Field(
        default="corpora",
        description="corpora: drawn by the shipped generators; data: what construction kept of the vertical; sft: what "
        "SFT is trained on (replay); set: an imported set; documents: what `open4ov data documents` made",
    )
    path: str | None = Field(default=None, min_length=1, description="set, documents: the folder, or a run directory")
    name: str | None = Field(
        default=None, min_length=1, description="what it is called; its kind, or its folder's name"
    )
    share: float = Field(default=1.0, gt=0, le=1, description="of the tasks; the shares of all sources sum to 1")
    domain: str | None = Field(
        default=None, min_length=1, description="in the report; of each sample's label when empty"
    )
    tasks: list[str] = Field(
        default_factory=list[str], description="only samples of these kinds of question (`Sample.task`); all when empty"
    )
    most: int | None = Field(default=None, ge=1, description="look at no more than so many samples, drawn at random")

    @property
    def title(self) -> str:
        """What the source is called in messages and figures."""
        if self.name:
            return self.name
        return self.path.rstrip("/").rpartition("/")[2] if self.path else self.kind


class PoolSection(Section):
    """The pool of tasks of online RL (paper §4.1.1)."""

    sources: list[SourceSection] = Field(
        default_factory=lambda: [SourceSection()], min_length=1, description="where tasks come from"
    )
    max_bad: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of a source that may be broken: of all that was checked, of what was judged, and of what "
        "was screened by hand, each by itself; a source with more is refused",
    )
    cloze: bool = Field(
        default=True, description="ask multiple choice openly; false: with its options and letters, to compare with"
    )
    answer_words: int = Field(default=5, ge=1, description="most words of an answer (twice as many Chinese characters)")
    near_questions: float = Field(
        default=1.0, gt=0, le=1, description="Jaccard index of two questions about one image from which one goes"
    )
    judged: int = Field(
        default=0,
        ge=0,
        description="samples of each source but the corpora that a model judges (data.roles.rl_pool names it)",
    )
    queue: int = Field(
        default=20, ge=0, description="samples of each source but the corpora that are set out for screening by hand"
    )
    decisions: str | None = Field(
        default=None,
        min_length=1,
        description="what was decided of them: a folder of `open4ov data view`'s decisions, or one such file",
    )
    screened: bool = Field(
        default=False, description="go on only when every sample of the queue has a decision; else the pool is refused"
    )


class LeakageSection(Section):
    """Answers that survive the removal of the picture (paper §4.1.2). Off by default."""

    rollouts: int = Field(default=0, ge=0, description="responses to each question without its picture; 0: no screen")
    least: float = Field(default=0.5, gt=0, le=1, description="pass rate without the picture from which one survives")
    level: float = Field(
        default=0.05, gt=0, lt=1, description="of the test that it is no guess: the share that is marked falsely"
    )


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    pool, leakage = recipe.rl.pool, recipe.rl.leakage
    for place, source in enumerate(pool.sources):
        loc: Loc = (*_POOL, "sources", place)
        if source.kind in _NAMED and source.path is None:
            yield loc, f"kind `{source.kind}` needs `path`: its folder"
    total = sum(source.share for source in pool.sources)
    if abs(total - 1) > 1e-6:
        yield (*_POOL, "sources"), f"the shares sum to {total:g}; they must sum to 1"
    for name, count in Counter(source.title for source in pool.sources).items():
        if count > 1:
            yield (*_POOL, "sources"), f"{count} sources are called '{name}'; give each a `name`"
    if pool.judged and ROLE not in recipe.data.roles:
        yield (*_POOL, "judged"), f"needs data.roles.{ROLE}: the provider that judges"
    if pool.screened and not pool.queue:
        yield (*_POOL, "screened"), "rl.pool.queue is 0, so that nothing is set out to be screened"
    if leakage.rollouts and 0.5**leakage.rollouts > leakage.level:
        yield (
            ("rl", "leakage", "rollouts"),
            f"{leakage.rollouts} right answers to a yes-or-no question come of guessing in more than "
            f"rl.leakage.level = {leakage.level:g} of the cases: none could be told from a guess; use more",
        )


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    pool, leakage = recipe.rl.pool, recipe.rl.leakage
    for place, source in enumerate(pool.sources):
        loc: Loc = (*_POOL, "sources", place)
        if source.kind not in _NAMED and source.path is not None:
            yield (*loc, "path"), f"kind `{source.kind}` is no folder", (*loc, "kind")
        if source.kind == "corpora":
            for field in sorted({"tasks", "most"} & source.model_fields_set):
                yield (*loc, field), "the corpora draw what RL needs, no more", (*loc, "kind")
    if all(source.kind == "corpora" for source in pool.sources):
        for field in sorted(_GIVEN & pool.model_fields_set):
            yield (*_POOL, field), "all sources are the corpora, which our own code draws", (*_POOL, "sources")
    if ROLE in recipe.data.roles and not pool.judged:
        yield ("data", "roles", ROLE), "rl.pool.judged is 0", (*_POOL, "judged")
    if leakage.rollouts == 0:
        for field in sorted({"least", "level"} & leakage.model_fields_set):
            yield ("rl", "leakage", field), "rl.leakage.rollouts is 0", ("rl", "leakage", "rollouts")
    elif recipe.rl.text_share == 1:
        yield ("rl", "leakage", "rollouts"), "rl.text_share is 1: no task has a picture", ("rl", "text_share")

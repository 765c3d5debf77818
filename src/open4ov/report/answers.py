"""The answers that all models of a run gave to the same questions, as the report reads them."""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from open4ov.errors import UserError


@dataclass(frozen=True)
class Row:
    """One question and what a model said to it: a row of answers.parquet, as `evaluate/scores.py` describes it."""

    id: str
    suite: str
    language: str
    question: str
    earlier: str
    answers: list[str]
    rule: str
    responses: list[str]
    right: list[bool]
    tokens: list[int]
    pictures: list[str]

    @property
    def is_right(self) -> bool:
        """Whether the question counts as answered: by its response, or by half of several at least."""
        return 2 * sum(self.right) >= len(self.right)

    @property
    def reference(self) -> str:
        """What would have been right, for a reader."""
        if self.rule == "refusal":
            return "says that there is no picture"
        if self.rule == "denial":
            return "says that it is not in the picture"
        return self.answers[0] if self.answers else ""


COLUMNS = [field.name for field in fields(Row)]
LISTS = ("answers", "responses", "right", "tokens", "pictures")


def read(folder: Path) -> list[Row]:
    """The rows of answers.parquet. UserError for a file that is damaged; ValueError for one that lacks a column or
    holds a row without a response."""
    try:
        table: Any = pq.read_table(folder / "answers.parquet")
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError):  # what Arrow says of it is of no use to a reader
        raise UserError(f"{folder.name}/answers.parquet is no whole Parquet file") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(f"answers.parquet has no column {', '.join(missing)}")
    rows: list[Row] = []
    for told in cast("list[dict[str, Any]]", table.select(COLUMNS).to_pylist()):
        whole: dict[str, Any] = {name: value or ([] if name in LISTS else "") for name, value in told.items()}
        row = Row(**whole)
        if not row.responses or not len(row.responses) == len(row.right) == len(row.tokens):
            raise ValueError(f"answers.parquet has no whole response to {row.id}")
        rows.append(row)
    return rows


def pictures(rows: Sequence[Row]) -> list[str]:
    """Of a question, from whichever model's answers have them."""
    return next((row.pictures for row in rows if row.pictures), list[str]())


def alike(answers: Mapping[str, Sequence[Row]]) -> str | None:
    """The name of the first model that was asked other questions than the first one; None when all were asked alike."""
    first = next(iter(answers.values()), ())
    asked = [row.id for row in first]
    return next((name for name, rows in answers.items() if [row.id for row in rows] != asked), None)

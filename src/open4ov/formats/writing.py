"""What all writers are given: where images come from, where files go, and where samples without a form are listed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from open4ov.errors import UserError
from open4ov.formats.card import SPLIT_NAMES, Card
from open4ov.formats.pictures import Pictures
from open4ov.formats.row import Codec, RowError, to_row
from open4ov.images import ImageError
from open4ov.sample import Sample


class Closes(Protocol):
    """Something that is written to and closed."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closes)


class Splits(Generic[T]):
    """A file for each split, opened when its first sample comes and closed in the end."""

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make
        self._open: dict[str, T] = {}

    def __getitem__(self, split: str) -> T:
        if split not in self._open:
            self._open[split] = self._make(SPLIT_NAMES[split])
        return self._open[split]

    def __enter__(self) -> Splits[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._open.values():
            file.close()


class Writing:
    """One export into the folder `out`. `pictures` knows the image store, and the kept originals; `card` counts."""

    def __init__(self, out: Path, pictures: Pictures, name: str, card: Card, *, strict: bool = False) -> None:
        self.out = out
        self.pictures = pictures
        self.name = name
        self.card = card
        self.strict = strict
        self.left_out: Counter[str] = Counter()

    def image_path(self, sha: str) -> Path:
        """The file that holds an image: what it was read from where that was kept, or the store's PNG."""
        path = self.pictures.original(sha) or self.pictures.store.path(sha)
        if not path.is_file():
            raise ImageError(f"{path}: is missing; the set is incomplete")
        return path

    def image_file(self, sha: str) -> str:
        """Copies an image into images/ and gives its path from `out`."""
        source = self.image_path(sha)
        name = f"images/{sha[:2]}/{sha}{source.suffix}"
        target = self.out / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        return name

    def row(self, codec: Codec, sample: Sample, images: Sequence[str]) -> dict[str, Any] | None:
        """A sample's row; None, and counted, when the format has no form for it. Raises UserError under `strict`."""
        try:
            row = to_row(codec, sample, images)
        except RowError as error:
            if self.strict:
                raise UserError(f"sample {sample.id}: {error}") from None
            self.left_out[str(error)] += 1
            return None
        self.card.count(sample)
        return row

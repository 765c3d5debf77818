"""Samples to batches of the `hf` model adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from open4ov.errors import UserError
from open4ov.model.hf import HFBatch, HFEncoded, HFModel, HFProcessor, pack
from open4ov.sample import Sample
from open4ov.store import ImageError, ImageStore


class HFEncoder:
    """Encodes samples whose images lie in `store`. Tokens are held in memory; pixels are made again for each batch, in
    the background of the training, since they can be many times as large as the images."""

    def __init__(self, processor: HFProcessor, store: ImageStore) -> None:
        self.processor = processor
        self.store = store
        self._documents: dict[str, HFEncoded] = {}

    def document(self, sample: Sample) -> HFEncoded:
        """The sample's tokens and targets; `images` is empty."""
        if sample.id not in self._documents:
            try:
                pictures = [self.store.get(sha) for sha in sample.images]
            except ImageError as error:
                raise UserError(f"sample {sample.id}: {error}") from error
            encoded = self.processor.encode(sample.messages, pictures)
            self._documents[sample.id] = replace(encoded, images={})
        return self._documents[sample.id]

    def length(self, sample: Sample) -> int:
        """Tokens of the sample, image tokens included."""
        return len(self.document(sample))

    def targets(self, sample: Sample) -> int:
        """Tokens of the sample that are to be predicted."""
        return int(self.document(sample).targets[1:].sum())

    def beginning(self, sample: Sample) -> str | None:
        """None: rows of a padded batch share nothing."""
        return None

    def pack(self, samples: Sequence[Sample]) -> tuple[HFBatch, Any]:
        """The samples as a padded batch with pixels. Features are never held: the second is None."""
        return pack([self._with_images(sample) for sample in samples]), None

    def _with_images(self, sample: Sample) -> HFEncoded:
        document = self.document(sample)
        if not sample.images:
            return document
        pictures = [self.store.get(sha) for sha in sample.images]
        return replace(document, images=self.processor.images(sample.messages, pictures))

    def thaw(self) -> None:
        """Nothing is held."""

    def freeze(
        self, model: HFModel, samples: Iterable[Sample], progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """Holds nothing: families give features in forms of their own, which cannot be cut by image and joined again.
        The frozen tower runs at each step, without gradient."""

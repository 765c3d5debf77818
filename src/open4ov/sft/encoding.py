"""Samples to packs: every image is fetched and resized once as long as there is room, every conversation tokenized
once.

Held in memory: images as RGB bytes of the model's size, the latest of them (`pictures.py`), conversations as tokens
without pixels. Patches are cut when a pack is built, in the background. With a frozen vision tower the images' features
are kept instead (`features.py`) and no image passes the tower twice, as long as there is room for them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from open4ov import training
from open4ov.errors import UserError
from open4ov.model import Batch, Encoded, Pack, Processor, Qwen3VL, VisionFeatures
from open4ov.model.sharing import Beginning, beginning, lay
from open4ov.sample import Sample
from open4ov.sft.features import Features
from open4ov.sft.pictures import Pictures
from open4ov.store import ImageError, ImageStore

HELD_BYTES = 4 * 2**30
"""Of features, in memory, where nobody says how many"""
T = TypeVar("T")
B_co = TypeVar("B_co", bound=Batch, covariant=True)
V_co = TypeVar("V_co", covariant=True)


class SampleEncoder(Protocol[B_co, V_co]):
    """What the training loop needs of the encoder that goes with its model."""

    def length(self, sample: Sample) -> int:
        """Tokens of the sample, image tokens included."""
        ...

    def targets(self, sample: Sample) -> int:
        """Tokens of the sample that are to be predicted."""
        ...

    def beginning(self, sample: Sample) -> str | None:
        """What the sample begins with: packs compute it once for all samples of theirs where it is equal. None: there
        is nothing that it could share."""
        ...

    def pack(self, samples: Sequence[Sample]) -> tuple[B_co, V_co | None]:
        """The samples as one batch of the model, and their images' features where they are held."""
        ...

    def freeze(
        self, model: Any, samples: Iterable[Sample], progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """The model's vision tower will not change any more: its features may be computed now and held."""
        ...

    def thaw(self) -> None:
        """The tower may change again: held features are not to be used."""
        ...


class _Remembering(Processor):
    """Tokenizes each distinct text once: role names, questions and short answers come again and again."""

    def __init__(self, processor: Processor) -> None:
        super().__init__(processor.tokenizer, processor.images, processor.files, processor.videos)
        self._known: dict[str, list[int]] = {}

    def tokenize(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = super().tokenize(text)
        return self._known[text]


class Encoder:
    """Encodes samples whose images lie in `store`; patches are cut on `device`.

    `limit`: longer samples are cut after that many tokens (None: none is), save those that would keep nothing to learn.
    `features`: where those of a frozen tower are kept; pictures for which it has no room pass the tower again at every
    step.
    `share`: a pack has the picture that several samples begin with once.
    """

    def __init__(
        self,
        processor: Processor,
        store: ImageStore,
        device: torch.device | str = "cpu",
        limit: int | None = None,
        features: Features | None = None,
        share: bool = True,
    ) -> None:
        self.processor = _Remembering(processor)
        self.store = store
        self.device, self.limit, self.share = device, limit, share
        self.pictures = Pictures(store, processor.images)
        self._documents: dict[str, Encoded] = {}
        self._beginnings: dict[str, Beginning | None] = {}
        self.features = features or Features(HELD_BYTES)

    def picture(self, sha: str) -> Image.Image:
        """The image at the size that the model sees."""
        return self.pictures.get(sha)

    def document(self, sample: Sample) -> Encoded:
        """The sample's tokens, cut to `limit`; without pixels, but with the grids of its pictures.

        Raises UserError for a cut through a picture, naming the sample and the limit that holds it, and for a picture
        that is not there.
        """
        if sample.id not in self._documents:
            frames = {index for m in sample.messages for p in m.content if p.type == "video" for index in p.shows}
            try:
                pictures = [
                    self.store.get(sha) if index in frames else self.picture(sha)
                    for index, sha in enumerate(sample.images)
                ]
            except ImageError as error:
                raise UserError(f"sample {sample.id}: {error}") from error
            document = replace(
                self.processor.encode(sample.messages, pictures, pixels=False), name=f"sample {sample.id}"
            )
            if self.limit is not None and bool(document.targets[1 : self.limit].any()):
                try:
                    document = self.processor.cut(document, self.limit)
                except UserError as error:
                    raise UserError(f"{error}; raise sft.pack_tokens, or set sft.too_long to skip") from None
            self._documents[sample.id] = document
        return self._documents[sample.id]

    def length(self, sample: Sample) -> int:
        """Tokens of the sample, image tokens included."""
        return len(self.document(sample))

    def targets(self, sample: Sample) -> int:
        """Tokens of the sample that are to be predicted."""
        return int(self.document(sample).targets[1:].sum())

    def beginning(self, sample: Sample) -> str | None:
        """What the sample begins with, up to its last picture before the first answer; None without one, or where
        nothing is shared."""
        found = self._beginning(sample)
        return found.key if found else None

    def pack(self, samples: Sequence[Sample]) -> tuple[Pack, VisionFeatures | None]:
        """The samples end to end, with pixels, or with the features that `freeze` computed (None without images). Those
        that begin like one before them come last, without what they share (`model/sharing.py`)."""
        joined, order = lay([self.document(sample) for sample in samples], [self._beginning(s) for s in samples])
        shows = [self._shown(samples[number]) for number in order]
        names = [name for own, count in zip(shows, joined.images, strict=True) for name in own[len(own) - count :]]
        if not names:
            return joined, None
        if all(name in self.features for name in names):
            return joined, VisionFeatures.cat([self.features.get(name, self.device) for name in names])
        return replace(joined, pixels=self._pixels(names)), None

    def freeze(
        self, model: Qwen3VL, samples: Iterable[Sample], progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """Passes the images of the samples through the tower once, in fixed chunks, and keeps the features, as long as
        there is room."""
        self.thaw()
        grids = {
            name: grid
            for sample in samples
            for name, grid in zip(self._shown(sample), self.document(sample).grids, strict=True)
        }
        names, chunk = list(grids), 64
        with torch.no_grad():
            for start in range(0, len(names), chunk):
                part = names[start : start + chunk]
                table = torch.stack([grids[name] for name in part])
                features = model.encode_images(self._pixels(part), table)
                self.features.put(dict(zip(part, features.split(table), strict=True)))
                if self.features.full:
                    return
                if progress:
                    progress("encoding images", min(start + chunk, len(names)), len(names))

    def thaw(self) -> None:
        """The tower may change again: what `freeze` kept is forgotten."""
        self.features.clear()

    def _beginning(self, sample: Sample) -> Beginning | None:
        if not self.share:
            return None
        if sample.id not in self._beginnings:
            document, p = self.document(sample), self.processor
            visual = (document.input_ids == p.image_id) | (document.input_ids == p.video_id)
            self._beginnings[sample.id] = beginning(document, visual, self._shown(sample), p.images.merge_size)
        return self._beginnings[sample.id]

    def _shown(self, sample: Sample) -> list[str]:
        """`shown`, without what has been cut off."""
        return shown(sample)[: len(self.document(sample).grids)]

    def _pixels(self, names: Sequence[str]) -> Tensor:
        """The patches of images and videos, by what `shown` calls them."""
        visuals = [
            [self.store.get(sha) for sha in name.split("+")] if "+" in name else self.picture(name) for name in names
        ]
        return self.processor.pixels(visuals, self.device)


def shown(sample: Sample) -> list[str]:
    """The images and videos of a sample as its messages show them, in that order (one shown twice counts twice): each
    by its digest, a video by its frames' digests, joined with "+"."""
    return [
        "+".join(sample.images[index] for index in part.shows)
        for message in sample.messages
        for part in message.content
        if part.type != "text"
    ]


def prefetch(items: Iterable[T], depth: int = 3) -> Generator[T]:
    """Yields the items, computed up to `depth` ahead in a background thread. An error there is raised here."""
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stop, same_card = threading.Event(), training.same_card()

    def hand_over(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put((item, error), timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            same_card()
            for item in items:
                hand_over(item, None)
                if stop.is_set():
                    return
            hand_over(None, StopIteration())
        except BaseException as error:
            hand_over(None, error)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            assert item is not None
            yield item
    finally:
        stop.set()
        thread.join()

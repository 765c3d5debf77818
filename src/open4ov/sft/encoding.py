"""Samples to packs: every image is fetched and resized once, every conversation tokenized once.

Held in memory: images as RGB bytes of the model's size, conversations as tokens without pixels. Patches are cut when a
pack is built, in the background. With a frozen vision tower the images' features are held instead and no image passes
the tower twice.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from open4ov.model import Encoded, Pack, Processor, Qwen3VL, VisionFeatures, pack
from open4ov.model.images import patches, smart_resize, video_patches
from open4ov.sample import Sample
from open4ov.store import ImageStore

T = TypeVar("T")


class _Remembering(Processor):
    """Tokenizes each distinct text once: role names, questions and short answers come again and again."""

    def __init__(self, processor: Processor) -> None:
        super().__init__(processor.tokenizer, processor.images, processor.files)
        self._known: dict[str, list[int]] = {}

    def tokenize(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = super().tokenize(text)
        return self._known[text]


class Encoder:
    """Encodes samples whose images lie in `store`."""

    def __init__(self, processor: Processor, store: ImageStore) -> None:
        self.processor = _Remembering(processor)
        self.store = store
        self._pictures: dict[str, Image.Image] = {}
        self._documents: dict[str, Encoded] = {}
        self._features: dict[str, VisionFeatures] = {}

    def picture(self, sha: str) -> Image.Image:
        """The image at the size that the model sees."""
        if sha not in self._pictures:
            image, s = self.store.get(sha), self.processor.images
            height, width = smart_resize(image.height, image.width, s.factor, s.min_pixels, s.max_pixels)
            if (height, width) != (image.height, image.width):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            self._pictures[sha] = image
        return self._pictures[sha]

    def document(self, sample: Sample) -> Encoded:
        """The sample's tokens; `pixels` is empty, `grids` is right."""
        if sample.id not in self._documents:
            frames = {index for m in sample.messages for p in m.content if p.type == "video" for index in p.shows}
            pictures = [
                self.store.get(sha) if index in frames else self.picture(sha) for index, sha in enumerate(sample.images)
            ]
            encoded = self.processor.encode(sample.messages, pictures)
            self._documents[sample.id] = replace(encoded, pixels=encoded.pixels[:0].clone())
        return self._documents[sample.id]

    def length(self, sample: Sample) -> int:
        """Tokens of the sample, image tokens included."""
        return len(self.document(sample))

    def pack(self, samples: Sequence[Sample]) -> tuple[Pack, VisionFeatures | None]:
        """The samples end to end, with pixels, or with the features that `freeze` computed (None without images)."""
        joined = pack([self.document(sample) for sample in samples])
        shas = [sha for sample in samples for sha in shown(sample)]
        if not shas:
            return joined, None
        if self._features:
            return joined, VisionFeatures.cat([self._features[sha] for sha in shas])
        pixels = [self._patches(sha)[0] for sha in shas]
        return replace(joined, pixels=torch.cat(pixels)), None

    def _patches(self, key: str) -> tuple[Tensor, tuple[int, int, int]]:
        """Patches and grid of an image, or of a video, by what `shown` calls it."""
        if "+" not in key:
            return patches(self.picture(key), self.processor.images)
        frames = [self.store.get(sha) for sha in key.split("+")]
        return video_patches(frames, self.processor.images, self.processor.videos)

    def freeze(
        self, model: Qwen3VL, samples: Iterable[Sample], progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """Passes every image of the samples through the tower once, in fixed chunks, and keeps the features."""
        shas = list(dict.fromkeys(sha for sample in samples for sha in shown(sample)))
        chunk = 64
        with torch.no_grad():
            for start in range(0, len(shas), chunk):
                part = shas[start : start + chunk]
                cut = [self._patches(sha) for sha in part]
                grids: Tensor = torch.tensor([grid for _, grid in cut])
                features = model.encode_images(torch.cat([pixels for pixels, _ in cut]), grids)
                self._features |= dict(zip(part, features.split(grids), strict=True))
                if progress:
                    progress("encoding images", min(start + chunk, len(shas)), len(shas))


def shown(sample: Sample) -> list[str]:
    """The images and videos of a sample as its messages show them, in that order (one shown twice counts twice): each
    by its digest, a video by its frames' digests, joined with "+"."""
    return [
        "+".join(sample.images[index] for index in part.shows)
        for message in sample.messages
        for part in message.content
        if part.type != "text"
    ]


def prefetch(items: Iterable[T], depth: int = 3) -> Iterator[T]:
    """Yields the items, computed up to `depth` ahead in a background thread. An error there is raised here."""
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def hand_over(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put((item, error), timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
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

"""The prompts of preference pairs, encoded once: for their length, and for every epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

from open4ov.errors import UserError
from open4ov.model import Encoded, Processor
from open4ov.model.processing import Visual, visuals
from open4ov.sample import Sample

KEPT = 2_000_000
"""Tokens of prompts that are kept (about 80 MB); those not used for longest go first"""


class PictureMissing(UserError):
    """A picture of a prompt is not there, or cannot be read."""


class Prompts:
    """Gives the prompt of a pair: all but the chosen response, with the assistant's opening, without pixels.

    `image(sha)`: a picture by its digest; it is asked for when a prompt is encoded first, and by `seen`.
    """

    def __init__(self, processor: Processor, image: Callable[[str], Image.Image]) -> None:
        self.processor, self.image = processor, image
        self._kept: OrderedDict[tuple[object, ...], Encoded] = OrderedDict()
        self._tokens = 0

    def __call__(self, pair: Sample) -> Encoded:
        """Raises PictureMissing, and UserError as `Processor.encode` does."""
        key = (pair.id, tuple(pair.images), *(message.text for message in pair.messages[:-1]))
        found = self._kept.get(key)
        if found is None:
            pictures = self._pictures(pair)
            found = self.processor.encode(pair.messages[:-1], pictures, generate=True, pixels=False)
            self._kept[key] = found
            self._tokens += len(found)
            while self._tokens > KEPT and len(self._kept) > 1:
                self._tokens -= len(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return found

    def seen(self, pair: Sample) -> list[Visual]:
        """The pictures and videos of a prompt, in the order in which they come."""
        return visuals(pair.messages[:-1], self._pictures(pair))

    def names(self, pair: Sample) -> list[str]:
        """What identifies the content of each of them; a video is its frames."""
        parts = [part for message in pair.messages[:-1] for part in message.content if part.type != "text"]
        return ["+".join(pair.images[place] for place in part.shows) for part in parts]

    def response(self, text: str) -> list[int]:
        """A response as it is trained on: its tokens and the one that ends it."""
        return [*self.processor.tokenize(text), self.processor.eos_id]

    def _pictures(self, pair: Sample) -> list[Image.Image]:
        try:
            return [self.image(sha) for sha in pair.images]
        except (UserError, OSError) as error:
            raise PictureMissing(str(error)) from error

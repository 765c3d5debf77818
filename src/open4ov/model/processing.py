"""Conversations to model input: chat format, tokens, image patches, M-RoPE positions, targets.

Text is tokenized piece by piece, and only pieces that the chat format itself adds may become special tokens: a user
who types `<|im_end|>` or `<|image_pad|>` gets the ordinary tokens of those characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from open4ov.errors import UserError
from open4ov.sample import Message

from .config import Config
from .draft import Draft, Visual
from .files import read_json, write_atomic
from .images import ImageSettings, VideoSettings, batch_patches, patches, video_patches
from .packing import Encoded

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""What `save_pretrained` hands on unchanged."""
LONG = 1000
"""Characters from which a text is tokenized the way that is cheap for long ones"""
_REQUIRED = ("tokenizer.json", "preprocessor_config.json")


class Processor:
    """The tokenizer, chat format and image processor of a model directory.

    `tokenizer` treats special tokens in text as text; get their ids from `token_id`. A text of more than n times
    `longest_token` characters has more than n tokens, whatever it says.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        images: ImageSettings,
        files: dict[str, bytes],
        videos: VideoSettings | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        self.images = images
        self.videos = videos or VideoSettings()
        self.files = files
        self.longest_token = _longest_token(tokenizer)
        self.special = {token: self.token_id(token) for token in SPECIAL_TOKENS}
        self.eos_id = self.special["<|im_end|>"]
        self.pad_id = self.special["<|endoftext|>"]
        self.image_id = self.special["<|image_pad|>"]
        self.video_id = self.special["<|video_pad|>"]

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> Processor:
        """Reads tokenizer and image settings. Raises UserError for missing or unreadable files and special tokens."""
        directory = Path(directory)
        files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
        missing = [name for name in _REQUIRED if name not in files]
        if missing:
            raise UserError(f"{directory}: missing {', '.join(missing)}; give a Hugging Face directory of a Qwen3-VL")
        settings = directory / "preprocessor_config.json"
        try:
            tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        except Exception as error:  # the tokenizers library raises bare Exception
            raise UserError(f"{directory / 'tokenizer.json'}: not a tokenizer: {error}") from None
        path = directory / "video_preprocessor_config.json"
        videos = VideoSettings.from_dict(read_json(path), str(path)) if path.name in files else None
        return cls(tokenizer, ImageSettings.from_dict(read_json(settings), str(settings)), files, videos)

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes the files that this processor was read from, byte for byte."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_atomic(directory / name, content)

    def check(self, config: Config) -> None:
        """Raises UserError when a model of this configuration reads other patches or tokens than these, naming the
        files and keys that disagree."""
        vision, images = config.vision, self.images
        pairs = [
            ("preprocessor_config.json", "vision_config.patch_size", "patch_size"),
            ("preprocessor_config.json", "vision_config.temporal_patch_size", "temporal_patch_size"),
            ("preprocessor_config.json", "vision_config.spatial_merge_size", "merge_size"),
            ("tokenizer.json", "image_token_id", "<|image_pad|>"),
            ("tokenizer.json", "video_token_id", "<|video_pad|>"),
            ("tokenizer.json", "vision_start_token_id", "<|vision_start|>"),
            ("tokenizer.json", "vision_end_token_id", "<|vision_end|>"),
        ]
        faults: list[str] = []
        for file, key, theirs in pairs:
            own = getattr(vision, key.rpartition(".")[2]) if "." in key else getattr(config, key)
            read = self.special[theirs] if theirs in self.special else getattr(images, theirs)
            if own != read:
                faults.append(f"config.json says {key} {own}, {file} says {theirs} {read}")
        if faults:
            raise UserError(f"{'; '.join(faults)}: give the processor's files of the same model")

    def token_id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise UserError(f"tokenizer.json: no token {token}; open4ov needs {', '.join(SPECIAL_TOKENS)}")
        return number

    def encode(
        self, messages: Sequence[Message], images: Sequence[Image.Image], generate: bool = False, pixels: bool = True
    ) -> Encoded:
        """One conversation; image and video parts refer to `images` by index. `generate` appends the assistant's
        opening. Without `pixels` they are left out, for those who have the features (see also `pixels`).

        Targets are each assistant message's content and its closing <|im_end|>. Raises UserError for a part without
        its images, and for an image or video in an assistant's or system's message.
        """
        draft = Draft(self)
        for number, message in enumerate(messages):
            draft.special("<|im_start|>")
            predicted = message.role == "assistant"
            opening = f"{message.role}\n"
            if predicted:  # cut where generation begins, so that training and generation tokenize alike
                draft.text(opening)
                opening = ""
            for part in message.content:
                if part.type == "text":
                    opening += part.text or ""
                    continue
                if message.role != "user":
                    raise UserError(
                        f"message {number}: only user messages may hold images, this one is {message.role}'s"
                    )
                shown = part.shows
                if not shown or shown[0] < 0 or shown[-1] >= len(images):
                    raise UserError(
                        f"message {number}: {part.type} part refers to image {shown[-1] if shown else None}, "
                        f"{len(images)} given"
                    )
                if part.type == "video":
                    draft.video(opening, [images[index] for index in shown], part.times or [])
                else:
                    draft.text(opening)
                    draft.image(images[shown[0]])
                opening = ""
            draft.text(opening, predicted)
            draft.special("<|im_end|>", predicted)
            draft.text("\n")
        if generate:
            draft.special("<|im_start|>")
            draft.text("assistant\n")
        return draft.finish(pixels)

    def encode_tokens(self, ids: Sequence[int], images: Sequence[Image.Image]) -> Encoded:
        """A conversation that somebody else has made tokens of, with one placeholder for each picture, without pixels:
        what `encode` gives of the same conversation. Raises UserError for placeholders that are not the pictures', and
        for a video."""
        if self.video_id in ids:
            raise UserError("a prompt that comes as tokens may hold pictures, and no video")
        draft = Draft(self)
        draft.tokens(ids, images)
        return draft.finish(pixels=False)

    def pixels(self, visuals: Sequence[Visual], device: torch.device | str = "cpu") -> Tensor:
        """The patches of pictures and videos, end to end, on `device` [P, patch_dim].

        On a CPU picture by picture, by Pillow; elsewhere the host only hands over the bytes, and pictures of one size
        are resized and cut up together (`images.batch_patches`, within 2 of 255 levels of the same).
        """
        pictures = [visual for visual in visuals if isinstance(visual, Image.Image)]
        cut: list[Tensor] = []
        if torch.device(device).type == "cpu":
            cut = [patches(picture, self.images)[0] for picture in pictures]
        elif pictures:
            together, grids = batch_patches(pictures, self.images, device)
            cut = list(together.split([rows * columns for _, rows, columns in grids]))
        ready = iter(cut)
        parts = [
            next(ready)
            if isinstance(visual, Image.Image)
            else video_patches(visual, self.images, self.videos)[0].to(device)
            for visual in visuals
        ]
        empty = torch.empty(0, 3 * self.images.temporal_patch_size * self.images.patch_size**2, device=device)
        return torch.cat(parts) if parts else empty

    def cut(self, document: Encoded, limit: int) -> Encoded:
        """The first `limit` tokens of a document, and the images and videos in them.

        Raises UserError when that would cut through an image or a video, with the limit that holds it.
        """
        if limit < 1:
            raise ValueError(f"a document cannot be cut after {limit} tokens")
        if len(document) <= limit:
            return document
        ids, patches = document.input_ids, document.grids.prod(1)
        places = ((ids == self.image_id) | (ids == self.video_id)).nonzero()[:, 0]
        placeholders = (patches // self.images.merge_size**2).cumsum(0)  # up to and with each image
        starts = places[F.pad(placeholders[:-1], (1, 0))] - 1 if len(placeholders) else placeholders
        ends = places[placeholders - 1] + 2  # both with the tokens that open and close it
        for number in ((starts < limit) & (limit < ends)).nonzero()[:, 0].tolist():
            raise UserError(
                f"{document.name or 'document'}: cut after {limit} of its {len(document)} tokens, it would end inside "
                f"image or video {number}; a limit of {int(ends[number])} tokens or more holds that"
            )
        whole = int((ends <= limit).sum())
        return replace(
            document,
            input_ids=ids[:limit],
            positions=document.positions[:, :limit],
            targets=document.targets[:limit],
            pixels=document.pixels[: int(patches[:whole].sum())],
            grids=document.grids[:whole],
            next_position=int(document.positions[0, limit]),
        )

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; what spells a special token stays text."""
        if len(text) < LONG:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        # no offsets, a sixth of the time and of the memory, and other threads go on meanwhile
        return self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def _longest_token(tokenizer: Tokenizer) -> int:
    """Characters of text that one token may stand for. A token of a byte-level vocabulary has a character for each of
    its bytes; a normalizer (NFC) may make four characters of text one of three bytes."""
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=False)), default=1)
    return longest if tokenizer.normalizer is None else 2 * longest


def visuals(messages: Sequence[Message], images: Sequence[Image.Image]) -> list[Visual]:
    """The pictures and videos of a conversation in the order in which they come."""
    parts = [part for message in messages for part in message.content if part.type != "text"]
    return [images[p.shows[0]] if p.type == "image" else [images[index] for index in p.shows] for p in parts]

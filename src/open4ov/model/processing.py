"""Conversations to model input: chat format, tokens, image patches, M-RoPE positions, targets.

Text is tokenized piece by piece, and only pieces that the chat format itself adds may become special tokens: a user
who types `<|im_end|>` or `<|image_pad|>` gets the ordinary tokens of those characters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from open4ov.errors import UserError
from open4ov.sample import Message

from .checkpoint import read_json, write_atomic
from .images import ImageSettings, VideoSettings, patches, video_patches
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
_REQUIRED = ("tokenizer.json", "preprocessor_config.json")


class Processor:
    """The tokenizer, chat format and image processor of a model directory.

    `tokenizer` treats special tokens in text as text; get their ids from `token_id`.
    """

    def __init__(self, tokenizer: Tokenizer, images: ImageSettings, files: dict[str, bytes]) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        self.images = images
        self.videos = VideoSettings()
        self.files = files
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
        processor = cls(tokenizer, ImageSettings.from_dict(read_json(settings), str(settings)), files)
        videos = directory / "video_preprocessor_config.json"
        if videos.name in files:
            processor.videos = VideoSettings.from_dict(read_json(videos), str(videos))
        return processor

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes the files that this processor was read from, byte for byte."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_atomic(directory / name, content)

    def token_id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise UserError(f"tokenizer.json: no token {token}; open4ov needs {', '.join(SPECIAL_TOKENS)}")
        return number

    def encode(self, messages: Sequence[Message], images: Sequence[Image.Image], generate: bool = False) -> Encoded:
        """One conversation; image and video parts refer to `images` by index. `generate` appends the assistant's
        opening.

        Targets are each assistant message's content and its closing <|im_end|>. Raises UserError for a part without
        its images, and for an image or video in an assistant's or system's message.
        """
        draft = _Draft(self)
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
        return draft.finish()

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; what spells a special token stays text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


class _Draft:
    """An `Encoded` under construction: pieces are appended left to right, `position` is M-RoPE's next."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.ids: list[int] = []
        self.targets: list[bool] = []
        self.positions: list[Tensor] = []
        self.position = 0
        self.pixels: list[Tensor] = []
        self.grids: list[tuple[int, int, int]] = []

    def special(self, token: str, predicted: bool = False) -> None:
        self._append([self.processor.special[token]], predicted)

    def text(self, text: str, predicted: bool = False) -> None:
        if text:
            self._append(self.processor.tokenize(text), predicted)

    def image(self, image: Image.Image) -> None:
        """<|vision_start|>, one placeholder for each merged token, <|vision_end|>. The image's tokens share one time,
        spread over height and width, and take max(height, width) positions (Qwen2-VL's M-RoPE)."""
        pixels, grid = patches(image, self.processor.images)
        self.pixels.append(pixels)
        self.grids.append(grid)
        self._placeholders(self.processor.image_id, grid)

    def video(self, opening: str, frames: Sequence[Image.Image], times: Sequence[float]) -> None:
        """Each pair of frames as an image of its own, after the time halfway between them: "<0.3 seconds>"."""
        pixels, grid = video_patches(frames, self.processor.images, self.processor.videos)
        self.pixels.append(pixels)
        self.grids.append(grid)
        together = self.processor.images.temporal_patch_size
        padded = [*times, *[times[-1]] * (-len(times) % together)]
        for pair in range(grid[0]):
            first, last = padded[pair * together], padded[(pair + 1) * together - 1]
            self.text(f"{opening}<{(first + last) / 2:.1f} seconds>")
            opening = ""
            self._placeholders(self.processor.video_id, grid)

    def _placeholders(self, token: int, grid: tuple[int, int, int]) -> None:
        """The tokens of one frame of a grid."""
        self.special("<|vision_start|>")
        merge = self.processor.images.merge_size
        rows, columns = grid[1] // merge, grid[2] // merge
        self.ids += [token] * (rows * columns)
        self.targets += [False] * (rows * columns)
        height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.positions.append(torch.stack((torch.zeros_like(height), height, width)).flatten(1) + self.position)
        self.position += max(rows, columns)
        self.special("<|vision_end|>")

    def finish(self) -> Encoded:
        s = self.processor.images
        empty = torch.empty(0, 3 * s.temporal_patch_size * s.patch_size**2)
        return Encoded(
            input_ids=torch.tensor(self.ids, dtype=torch.long),
            positions=torch.cat(self.positions, dim=1) if self.positions else torch.empty(3, 0, dtype=torch.long),
            targets=torch.tensor(self.targets, dtype=torch.bool),
            pixels=torch.cat(self.pixels) if self.pixels else empty,
            grids=torch.tensor(self.grids, dtype=torch.long).view(-1, 3),
            next_position=self.position,
        )

    def _append(self, ids: list[int], predicted: bool) -> None:
        self.ids += ids
        self.targets += [predicted] * len(ids)
        self.positions.append(torch.arange(self.position, self.position + len(ids)).expand(3, -1))
        self.position += len(ids)


CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""Renders what `Processor.encode` tokenizes, for those who load the directory with other software."""


def make_tokenizer_files(
    directory: Path | str, tokenizer: Tokenizer, min_pixels: int = 1024, max_pixels: int = 16_384
) -> Processor:
    """Writes everything but the model: tokenizer, image settings, chat template, generation settings; returns the
    processor read back. `min_pixels`, `max_pixels`: limits of an image's area (Qwen3-VL itself: 65,536 and 16,777,216).

    Special tokens that the tokenizer lacks are added to it. transformers and the engines that build on it can read
    the directory.
    """
    directory = Path(directory)
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None])
    settings = ImageSettings(min_pixels=min_pixels, max_pixels=max_pixels)
    added = {str(number): _added_token(token.content) for number, token in tokenizer.get_added_tokens_decoder().items()}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Qwen3VLProcessor",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 262_144,
    }
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    video = {**settings.to_dict(), "video_processor_type": "Qwen3VLVideoProcessor"}
    del video["image_processor_type"]
    contents = {
        "tokenizer_config.json": tokenizer_config,
        "preprocessor_config.json": settings.to_dict(),
        "video_preprocessor_config.json": video,
        "generation_config.json": {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1]},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    write_atomic(directory / "chat_template.jinja", CHAT_TEMPLATE.encode())
    for name, content in contents.items():
        write_atomic(directory / name, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
    return Processor.from_pretrained(directory)


def _added_token(content: str) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **flags, "special": content in SPECIAL_TOKENS}

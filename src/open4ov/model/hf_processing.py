"""Conversations to the tokens and pixels of a family that transformers knows, by the family's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from open4ov.errors import UserError
from open4ov.sample import Message, Part

from .files import write_atomic
from .hf_batch import HFEncoded
from .hf_files import LOCAL, library, processor_files


class HFProcessor:
    """Chat template, tokenizer and image processor of a directory, as transformers builds them.

    Text that spells a control token (a special token, or an added one that the chat template writes) stays text:
    `encode` has transformers split it (`sanitize_control_tokens`), and refuses the message where the family's processor
    cannot (Idefics3's, and those whose tokenizer rather than template writes the opening token). Not guaranteed: added
    tokens that are neither, such as `<think>` of some tokenizers, are tokenized as they always are, and a chat template
    may strip or rewrite what it is given.
    Videos are not taken: most families' video processors need torchvision.
    """

    def __init__(self, processor: Any, files: dict[str, bytes], name: str) -> None:
        self.processor = processor
        self.tokenizer: Any = processor.tokenizer
        self.files = files
        self.name = name
        added = self.tokenizer.added_tokens_decoder
        template = str(processor.chat_template)
        self._special = {number for number, token in added.items() if token.special}
        self._control = {
            token.content: number
            for number, token in added.items()
            if token.special or (token.content in template and not token.content.isspace())
        }

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> HFProcessor:
        """Reads a directory. Raises UserError for missing or unreadable files, or without transformers."""
        directory = Path(directory)
        library()
        files = processor_files(directory)
        try:
            processor = _build(directory)
        except UserError:
            raise
        except Exception as error:  # a family's processor may fail in any way on files that are not its own
            raise UserError(f"{directory}: transformers cannot build the processor: {error}") from error
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise UserError(f"{directory}: transformers finds no {part} there, only a {type(processor).__name__}")
        if not processor.chat_template:
            raise UserError(f"{directory}: no chat template; chat_template.jinja must be there")
        return cls(processor, files, str(directory))

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes the files that this processor was read from, byte for byte."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_atomic(directory / name, content)

    def encode(self, messages: Sequence[Message], images: Sequence[Image.Image], generate: bool = False) -> HFEncoded:
        """One conversation; image parts refer to `images` by index. `generate` appends the assistant's opening.

        Targets are each assistant message's content and its closing end-of-turn token. They are found by encoding
        the conversation up to the message's beginning and end too, so images are processed once more for each.
        Raises UserError for a part without its image, a video, an image that is not a user's, what the chat template
        or the processor refuses, and a message whose tokens depend on what comes after it.
        """
        ids, aligned, pictures = self._inputs(messages, images, generate)
        targets = torch.zeros_like(ids, dtype=torch.bool)
        for number, message in enumerate(messages):
            if message.role == "assistant":
                start, end = self._reach(ids, messages, images, number)
                closing = [place for place in range(start, end) if int(ids[place]) in self._special]
                if not closing:
                    raise UserError(
                        f"{self.name}: the chat template closes message {number} with no special token: "
                        "a model trained on it would never stop; give a template that writes the end-of-turn token"
                    )
                targets[start : closing[-1] + 1] = True
        return HFEncoded(ids, targets, aligned, pictures)

    def images(self, messages: Sequence[Message], images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What `encode` gives as `images`, without the search for targets."""
        return self._inputs(messages, images, False)[2]

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; what spells a special token stays text, save with the few tokenizers in pure Python that
        ignore `split_special_tokens`."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _reach(
        self, ids: Tensor, messages: Sequence[Message], images: Sequence[Image.Image], number: int
    ) -> tuple[int, int]:
        """From where to where the content of message `number` and what the template writes after it reach in `ids`."""
        before = self._inputs(messages[:number], images, True)[0] if number else ids[:0]
        whole = number == len(messages) - 1
        after = ids if whole else self._inputs(messages[: number + 1], images, False)[0]
        for part, what in ((before, "up to it"), (after, "with it")):
            if len(part) > len(ids) or not torch.equal(part, ids[: len(part)]):
                raise UserError(
                    f"message {number}: the conversation {what} is not how the whole conversation begins, in tokens of "
                    f"{self.name}: the family's chat template rewrites earlier turns, or its processor cuts images "
                    "differently when more follow; train it on conversations of one answer"
                )
        return len(before), len(after)

    def _inputs(
        self, messages: Sequence[Message], images: Sequence[Image.Image], generate: bool
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Ids [T], what goes with each token [T], and what the processor makes of the images."""
        chat = [_message(number, message, images) for number, message in enumerate(messages)]
        shown = sum(part["type"] == "image" for message in chat for part in message["content"])
        spelled = [number for number, message in enumerate(messages) if self._without_control(message) != message]
        try:
            out = self._apply(chat, generate, sanitize=bool(spelled))
        except Exception as error:  # chat templates and processors refuse in their own ways
            if spelled:
                raise self._spells(spelled) from error
            raise UserError(
                f"{self.name}: the processor refuses a conversation of {len(messages)} messages and {shown} images: "
                f"{error}"
            ) from error
        ids, given = out["input_ids"], {k: v for k, v in out.items() if k not in ("input_ids", "attention_mask")}
        if spelled:  # some families' processors lose the request on the way
            plain = self._inputs([self._without_control(message) for message in messages], images, generate)[0]
            control = torch.tensor(list(self._control.values()))
            if not torch.equal(ids[torch.isin(ids, control)], plain[torch.isin(plain, control)]):
                raise self._spells(spelled)
        aligned = {k: v[0] for k, v in given.items() if v.shape == ids.shape and not v.is_floating_point()}
        return ids[0], aligned, {k: v for k, v in given.items() if k not in aligned}

    def _apply(self, chat: list[dict[str, Any]], generate: bool, sanitize: bool) -> Any:
        return self.processor.apply_chat_template(
            chat,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=generate,
            sanitize_control_tokens=sanitize,
        )

    def _spells(self, numbers: list[int]) -> UserError:
        return UserError(
            f"message {numbers[0]}: its text spells a control token of {self.name}, which the family's processor "
            "cannot keep as text; take it out of the text"
        )

    def _without_control(self, message: Message) -> Message:
        """The message with a space for each control token that its text spells."""
        parts: list[Part] = []
        for part in message.content:
            text = part.text or ""
            for token in self._control:
                text = text.replace(token, " ")
            parts.append(part if text == (part.text or "") else part.model_copy(update={"text": text}))
        return message.model_copy(update={"content": parts})


def _message(number: int, message: Message, images: Sequence[Image.Image]) -> dict[str, Any]:
    """A message as chat templates take it."""
    content: list[dict[str, Any]] = []
    for part in message.content:
        if part.type == "text":
            content.append({"type": "text", "text": part.text or ""})
            continue
        if part.type == "video":
            raise UserError(f"message {number}: the hf adapter takes no videos; give frames as images")
        if message.role != "user":
            raise UserError(f"message {number}: only user messages may hold images, this one is {message.role}'s")
        if part.index is None or not 0 <= part.index < len(images):
            raise UserError(f"message {number}: image part refers to image {part.index}, {len(images)} given")
        content.append({"type": "image", "image": images[part.index].convert("RGB")})
    return {"role": message.role, "content": content}


def _build(directory: Path) -> Any:
    """The family's processor. Without torchvision, which all video processors need, it gets none."""
    transformers = library()
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils.import_utils import is_torchvision_available

    config = transformers.AutoConfig.from_pretrained(directory, **LOCAL)
    family: Any = PROCESSOR_MAPPING.get(type(config), None)
    parts: list[str] = [] if family is None else family.get_attributes()
    if family is None or is_torchvision_available() or "video_processor" not in parts:
        return transformers.AutoProcessor.from_pretrained(directory, **LOCAL)

    class ImagesOnly(family):
        """The family's processor, which would not do without its video processor."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name != "video_processor":
                return super().check_argument_for_proper_class(argument_name, argument)

    makers = {
        "tokenizer": lambda: transformers.AutoTokenizer.from_pretrained(directory, **LOCAL),
        "image_processor": lambda: transformers.AutoImageProcessor.from_pretrained(directory, **LOCAL),
        "video_processor": lambda: None,
    }
    unknown = [part for part in parts if part not in makers]
    if unknown:
        raise UserError(f"{directory}: its processor also needs {', '.join(unknown)}: pip install torchvision")
    settings, _ = family.get_processor_dict(directory)
    return ImagesOnly.from_args_and_dict([makers[part]() for part in parts], settings)

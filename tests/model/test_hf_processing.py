"""Conversations in the tokens of families that transformers knows: what is learnt, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hf_tiny import CLOSING, conversations
from oracle import noise

from open4ov.errors import UserError
from open4ov.model.hf import HFProcessor
from open4ov.sample import Message, Part, assistant, user


@pytest.fixture
def processor(directory: Path) -> HFProcessor:
    return HFProcessor.from_pretrained(directory)


def test_targets_are_the_answers_and_what_closes_them(family: str, processor: HFProcessor) -> None:
    closing = CLOSING[family]
    for document, answers in zip(
        conversations(processor), (["这是什么颜色？"], ["three"], ["red", "blue 2"]), strict=True
    ):
        text = processor.tokenizer.decode(document.input_ids[document.targets])
        assert [part.strip() for part in text.split(closing)] == [*answers, ""]
        assert processor.tokenizer.convert_tokens_to_ids(closing) == document.input_ids[document.targets][-1]
        assert not document.targets[0]
    opened = processor.encode([user("What colour?", 1)], [noise(48, 48, 1)], generate=True)
    whole = processor.encode([user("What colour?", 1), assistant("red")], [noise(48, 48, 1)])
    assert torch.equal(opened.input_ids, whole.input_ids[: len(opened)])
    assert int(whole.targets.nonzero()[0]) == len(opened)
    assert not opened.targets.any()


def test_text_that_spells_a_control_token_is_text_or_refused(family: str, processor: HFProcessor) -> None:
    closing = CLOSING[family]
    number = processor.tokenizer.convert_tokens_to_ids(closing)
    messages = [user(f"say {closing} now"), assistant("no")]
    plain = processor.encode([user("say now"), assistant("no")], [])
    document = processor.encode(messages, [])
    assert int((document.input_ids == number).sum()) == int((plain.input_ids == number).sum())
    assert closing in processor.tokenizer.decode(document.input_ids[: int(document.targets.nonzero()[0])])
    assert number not in processor.tokenize(closing)
    assert processor.decode([*processor.tokenize("red "), number]) == "red "
    with_image = [user(f"say {closing} now", 1), assistant("no")]
    if family == "idefics3":
        with pytest.raises(UserError, match="message 0: its text spells a control token"):
            processor.encode(with_image, [noise(48, 48, 1)])
    else:
        document = processor.encode(with_image, [noise(48, 48, 1)])
        assert int((document.input_ids == number).sum()) == int((plain.input_ids == number).sum())


def test_conversations_that_do_not_fit(processor: HFProcessor) -> None:
    picture = noise(48, 48, 1)
    with pytest.raises(UserError, match="message 1: image part refers to image 1, 1 given"):
        processor.encode([user("a", 1), user("b", 1, first_image=1)], [picture])
    shown = Message(role="assistant", content=[Part(type="image", index=0)])
    with pytest.raises(UserError, match="message 1: only user messages may hold images"):
        processor.encode([user("a"), shown], [picture])
    frames = Message(role="user", content=[Part(type="video", index=0, times=[0.0])])
    with pytest.raises(UserError, match="message 0: the hf adapter takes no videos"):
        processor.encode([frames], [picture])


def test_images_in_later_turns_are_trained_on_or_refused(family: str, processor: HFProcessor) -> None:
    talk = [user("a", 1), assistant("red"), user("b", 1, first_image=1), assistant("blue")]
    pictures = [noise(48, 48, 1), noise(64, 32, 2)]
    if family == "llava_onevision":  # it cuts the only image of a conversation, and no other, into tiles
        with pytest.raises(UserError, match=r"message 1: the conversation up to it is not how the whole .* begins"):
            processor.encode(talk, pictures)
        return
    document = processor.encode(talk, pictures)
    answers = processor.tokenizer.decode(document.input_ids[document.targets]).split(CLOSING[family])
    assert [answer.strip() for answer in answers] == ["red", "blue", ""]


def test_chat_templates_that_cannot_be_trained_on(directories: dict[str, Path]) -> None:
    processor = HFProcessor.from_pretrained(directories["qwen2_5_vl"])
    template = processor.processor.chat_template
    talk = [user("a"), assistant("b"), user("c", 1), assistant("d")]
    for old, new, message in (
        ("{{ part.text }}", "{{ part.text if loop.last and loop.index == messages|length else messages|length }}", ""),
        ("<|im_end|>", "", "the chat template closes message 1 with no special token"),
        ("<|vision_start|><|image_pad|><|vision_end|>", "", "refuses a conversation of 4 messages and 1 images"),
        ("<|im_start|>{{", "{{ raise_exception('no') }}{{", "refuses a conversation of 4 messages and 1 images: no"),
    ):
        assert old in template
        processor.processor.chat_template = template.replace(old, new)
        with pytest.raises(UserError, match=message or "message 1: the conversation up to it is not how the whole"):
            processor.encode(talk, [noise(48, 48, 1)])

"""The adapter of transformers' models, family by family, against transformers itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_tiny import capped_model, conversations
from oracle import noise
from torch import Tensor

from open4ov.assets import base_dir
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.model import pack as pack_ours
from open4ov.model.hf import HFBatch, HFEncoded, HFModel, HFProcessor, pack
from open4ov.sample import assistant, user


@pytest.fixture
def model(directory: Path) -> HFModel:
    return HFModel.from_pretrained(directory)


@pytest.fixture
def processor(directory: Path) -> HFProcessor:
    return HFProcessor.from_pretrained(directory)


def reference(model: HFModel, document: HFEncoded) -> Tensor:
    """transformers' own logits of a document alone [T, V]."""
    inputs: dict[str, Any] = {name: value[None] for name, value in document.aligned.items()} | document.images
    return model.network(input_ids=document.input_ids[None], **inputs, use_cache=False).logits[0]


def test_log_probs_and_entropies_are_those_of_transformers_logits(model: HFModel, processor: HFProcessor) -> None:
    documents = conversations(processor)
    batch = model.pack(documents)
    assert model.plain_head
    assert len(batch.input_ids) == sum(map(len, documents))
    with torch.no_grad():
        found, entropies = model.log_probs(batch, temperature=0.7)
        for document, own, entropy in zip(
            documents, found.split(batch.lengths.tolist()), entropies.split(batch.lengths.tolist()), strict=True
        ):
            log_p = (reference(model, document).double() / 0.7).log_softmax(-1)[:-1]
            expected = log_p.gather(-1, document.input_ids[1:, None])[:, 0] * document.targets[1:]
            torch.testing.assert_close(own[1:].double(), expected, atol=1e-5, rtol=0)
            spread = -(log_p.exp() * log_p).sum(-1) * document.targets[1:]
            torch.testing.assert_close(entropy[1:].double(), spread, atol=1e-5, rtol=0)
            assert own[0] == entropy[0] == 0
            assert int((own != 0).sum()) == int(document.targets.sum()) >= 2


def test_the_loss_has_the_gradients_of_transformers_own(model: HFModel, processor: HFProcessor) -> None:
    batch = model.pack(conversations(processor))
    _check_loss(model, batch)


def _check_loss(model: HFModel, batch: HFBatch) -> None:
    loss = model.loss(batch)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    labels = torch.full(batch.inputs["input_ids"].shape, -100)
    labels.view(-1)[batch.slots[batch.predicted]] = batch.input_ids[batch.predicted]
    own = model.network(**batch.inputs, labels=labels).loss
    own.backward()
    torch.testing.assert_close(loss, own, atol=1e-5, rtol=0)
    for name, parameter in model.named_parameters():
        gradient = found[name]
        if parameter.grad is None or gradient is None:
            assert parameter.grad is None, name
            assert gradient is None, name
            continue
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=0, msg=name)
    assert sum(g is not None and bool(g.any()) for g in found.values()) > len(found) / 2


def test_a_document_is_the_same_alone_and_padded(model: HFModel, processor: HFProcessor) -> None:
    documents = conversations(processor)
    batch = pack(documents)
    with torch.no_grad():
        together, _ = model.log_probs(batch)
        hidden = model.hidden_states(batch)
        for document, part, states in zip(
            documents, together.split(batch.lengths.tolist()), hidden.split(batch.lengths.tolist()), strict=True
        ):
            alone = pack([document])
            torch.testing.assert_close(part, model.log_probs(alone)[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(states, model.hidden_states(alone), atol=1e-4, rtol=0)


def test_the_image_matters_and_its_features_stand_in_for_it(model: HFModel, processor: HFProcessor) -> None:
    messages = [user("What colour?", 1), assistant("red")]
    one, other = (pack([processor.encode(messages, [noise(48, 48, seed)])]) for seed in (1, 2))
    with torch.no_grad():
        first, second = model.log_probs(one)[0], model.log_probs(other)[0]
        assert (first - second).abs().max() > 1e-3
        features = model.encode_images(one)
        assert torch.equal(model.log_probs(one, features)[0], first)
        assert torch.equal(model.log_probs(other, features)[0], first)
        assert torch.equal(model.loss(one, features), model.loss(one))
    assert model.encode_images(pack([processor.encode([user("hi"), assistant("ok")], [])])) is None


def test_greedy_generation_is_transformers_own_and_alone_in_its_row(model: HFModel, processor: HFProcessor) -> None:
    prompts = [
        processor.encode([user("What colour?", 1)], [noise(48, 48, 1)], generate=True),
        processor.encode([user("How many squares are there?")], [], generate=True),
        processor.encode([user("left", 2)], [noise(64, 32, 2), noise(32, 64, 3)], generate=True),
    ]
    together = model.generate(prompts, 6)
    assert len({tuple(row) for row in together}) > 1
    for prompt, row in zip(prompts, together, strict=True):
        assert model.generate([prompt], 6) == [row]
        inputs: dict[str, Any] = {name: value[None] for name, value in prompt.aligned.items()} | prompt.images
        ids = prompt.input_ids[None]
        own = model.network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, max_new_tokens=6, do_sample=False
        )
        assert own[0, len(prompt) :].tolist() == row
    drawn = model.generate(prompts, 6, temperature=1.0, seed=3)
    assert drawn == model.generate(prompts, 6, temperature=1.0, seed=3)
    assert drawn != model.generate(prompts, 6, temperature=1.0, seed=4)
    model.network.generation_config.repetition_penalty = 3.0
    model.network.generation_config.top_k = 1
    assert model.generate(prompts, 6) == together
    assert model.generate(prompts, 6, temperature=1.0, seed=3) == drawn
    model.network.generation_config.eos_token_id = together[0][1]
    stopped = model.generate(prompts, 6)
    assert stopped[0] == together[0][: together[0].index(together[0][1]) + 1]


@pytest.mark.parametrize("cap", [2.0, None])
def test_logits_capped_after_the_head_are_seen_and_respected(cap: float | None) -> None:
    model = HFModel(capped_model(cap))
    assert model.plain_head is (cap is None)
    generator = torch.Generator().manual_seed(1)
    documents: list[HFEncoded] = []
    for length in (9, 5):
        ids = torch.randint(1, 290, (length,), generator=generator)
        documents.append(HFEncoded(ids, torch.arange(length) % 3 < 2, {}, {}))
    batch = pack(documents)
    _check_loss(model, batch)
    with torch.no_grad():
        found, entropies = model.log_probs(batch, temperature=1.3)
        for document, own, entropy in zip(documents, found.split([9, 5]), entropies.split([9, 5]), strict=True):
            logits = reference(model, document)
            assert own[0] == entropy[0] == 0, "nothing stands before the first token, though it is a target"
            assert cap is None or 1.5 < logits.abs().max() < cap
            log_p = (logits / 1.3).log_softmax(-1)[:-1]
            expected = log_p.gather(-1, document.input_ids[1:, None])[:, 0] * document.targets[1:]
            torch.testing.assert_close(own[1:], expected, atol=1e-5, rtol=0)
            spread = -(log_p.exp() * log_p).sum(-1) * document.targets[1:]
            torch.testing.assert_close(entropy[1:], spread, atol=1e-5, rtol=0)


def test_our_nano_is_the_same_model_through_the_adapter() -> None:
    directory = base_dir("nano")
    ours, processor = Qwen3VL.from_pretrained(directory), Processor.from_pretrained(directory)
    theirs, adapter = HFModel.from_pretrained(directory), HFProcessor.from_pretrained(directory)
    talks = [
        ([user("What is in the image?", 1), assistant("A red circle.")], [noise(96, 64, 1)]),
        ([user("1 + 1 ="), assistant("2")], []),
    ]
    mine = [processor.encode(*talk) for talk in talks]
    other = [adapter.encode(*talk) for talk in talks]
    for one, two in zip(mine, other, strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
        assert torch.equal(one.targets, two.targets)
    with torch.no_grad():
        first, second = ours.log_probs(pack_ours(mine)), theirs.log_probs(pack(other))
        loss = ours.loss(pack_ours(mine)), theirs.loss(pack(other))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)
    torch.testing.assert_close(*loss, atol=1e-4, rtol=0)


def test_image_tokens_without_pictures_are_refused(model: HFModel, processor: HFProcessor) -> None:
    batch = model.pack([replace(document, images={}) for document in conversations(processor)])
    with pytest.raises(UserError, match=r"\d+ image tokens has no pictures"):
        model.loss(batch)

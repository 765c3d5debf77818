"""Log-probabilities and losses: against the definition on full logits, and what they must depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import conversations, noise

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, VisionFeatures, losses, pack, qwen3_vl
from open4ov.sample import assistant, user


@pytest.fixture
def model(tiny_dir: Path) -> Qwen3VL:
    return Qwen3VL.from_pretrained(tiny_dir)


@pytest.fixture
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


def test_by_definition(model: Qwen3VL, processor: Processor) -> None:
    """Document by document from full logits, in float64."""
    documents = conversations(processor)["batch"]
    batch = pack(documents)
    with torch.no_grad():
        log_p, entropy = model.log_probs(batch, temperature=0.7)
        loss = model.loss(batch)
    start, total, count = 0, 0.0, 0
    for document in documents:
        with torch.no_grad():
            logits = model.logits(model.hidden_states(pack([document]))).double()
        for t in range(len(document)):
            if not document.targets[t] or t == 0:
                assert log_p[start + t] == 0
                assert entropy[start + t] == 0
                continue
            p = (logits[t - 1] / 0.7).softmax(-1)
            assert float(log_p[start + t]) == pytest.approx(float(p[document.input_ids[t]].log()), abs=1e-4)
            assert float(entropy[start + t]) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-4)
            total -= float(logits[t - 1].log_softmax(-1)[document.input_ids[t]])
            count += 1
        start += len(document)
    assert count > 10
    assert float(loss) == pytest.approx(total / count, abs=1e-4)


def test_a_temperature_of_zero_is_no_distribution(model: Qwen3VL, processor: Processor) -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        model.log_probs(pack(conversations(processor)["text"]), temperature=0.0)


@pytest.mark.parametrize("chunk", [1, 700, 2**30])
def test_chunked_loss_and_log_probs_have_the_same_gradient(
    model: Qwen3VL, processor: Processor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pack(conversations(processor)["batch"])
    log_p, _ = model.log_probs(batch)
    (-log_p.sum() / batch.targets.sum()).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) == len(list(model.parameters()))
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": chunk})
    monkeypatch.setattr(qwen3_vl, "LOGITS_AT_ONCE", chunk)
    for value in (model.loss(batch), -model.log_probs(batch)[0].sum() / batch.targets.sum()):
        model.zero_grad()
        value.backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-3, msg=name)


def test_nothing_to_predict(model: Qwen3VL, processor: Processor) -> None:
    batch = pack([processor.encode([user("hello")], [])])
    assert model.loss(batch).item() == 0
    log_p, entropy = model.log_probs(batch)
    assert log_p.shape == entropy.shape == batch.input_ids.shape
    assert not log_p.any()


def test_the_first_token_of_a_document_is_never_predicted(model: Qwen3VL, processor: Processor) -> None:
    """Nothing stands before it; above all not the last token of its neighbour in the pack."""
    one, text, _ = conversations(processor)["batch"]
    eager = replace(text, targets=torch.ones_like(text.targets))
    with torch.no_grad():
        log_p, _ = model.log_probs(pack([one, eager]))
        mean = -log_p[len(one) :].sum() / (len(text) - 1)
        assert log_p[len(one)] == 0
        assert (log_p[len(one) + 1 :] < 0).all()
        torch.testing.assert_close(model.loss(pack([eager])), mean, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_blocks_equal_eager(model: Qwen3VL, processor: Processor, autocast: bool) -> None:
    """For packs of two shapes, through dynamic graphs; parameter names stay."""
    names = list(model.state_dict())
    one, text, several = conversations(processor)["batch"]
    batches = [pack([one, text, several]), pack([several, one])]

    def losses_and_gradient() -> tuple[list[float], torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            values = [model.loss(batch) for batch in batches]
        torch.stack(values).sum().backward()
        assert model.vision.patch.weight.grad is not None
        return [v.item() for v in values], model.vision.patch.weight.grad.flatten().clone()

    expected, gradient = losses_and_gradient()
    for block in [*model.text.layers, *model.vision.blocks]:
        block.compile(dynamic=True)
    values, compiled = losses_and_gradient()
    assert values == pytest.approx(expected, rel=2e-2 if autocast else 1e-5)
    assert torch.cosine_similarity(compiled, gradient, dim=0) > (0.99 if autocast else 0.99999)
    assert list(model.state_dict()) == names


def test_swapping_the_image_changes_log_probs(model: Qwen3VL, processor: Processor) -> None:
    messages = [user("What colour?", 1), assistant("red")]
    with torch.no_grad():
        a, b, again = (model.log_probs(pack([processor.encode(messages, [noise(96, 96, s)])]))[0] for s in (1, 2, 1))
    assert (a - b).abs().max() > 1e-3
    assert torch.equal(a, again)


def test_neighbours_in_a_pack_do_not_matter(model: Qwen3VL, processor: Processor) -> None:
    one, text, several = conversations(processor)["batch"]
    with torch.no_grad():
        alone = model.log_probs(pack([text]))[0]
        packed = model.log_probs(pack([several, text, one]))[0]
    torch.testing.assert_close(packed[len(several) : len(several) + len(text)], alone, atol=1e-5, rtol=1e-4)


def test_features_once_for_many(model: Qwen3VL, processor: Processor) -> None:
    """Images encoded apart, split and joined give what the model computes itself."""
    documents = conversations(processor)["batch"]
    batch = pack(documents)
    with torch.no_grad():
        features = model.encode_images(batch.pixels, batch.grids).split(batch.grids)
        assert [len(f.merged) for f in features] == (batch.grids.prod(1) // 4).tolist()
        torch.testing.assert_close(
            model.hidden_states(batch, VisionFeatures.cat(features)), model.hidden_states(batch), atol=1e-5, rtol=1e-4
        )
        swapped = VisionFeatures.cat([features[0], features[3], features[2], features[1]])
        assert (model.hidden_states(batch, swapped) - model.hidden_states(batch)).abs().max() > 1e-3


def test_placeholders_without_their_image_are_found(model: Qwen3VL, processor: Processor) -> None:
    """The document at fault is named, by its place and by its sample."""
    one, text, several = conversations(processor)["batch"]
    documents = [one, replace(text, name="sample a"), replace(several, name="sample b")]
    batch = pack(documents)
    features = model.encode_images(batch.pixels, batch.grids).split(batch.grids)
    with pytest.raises(UserError, match="the features given are of other images"):
        model.hidden_states(batch, features[0])
    lost = replace(one, input_ids=one.input_ids.masked_fill(one.input_ids == processor.image_id, 7), name="sample d")
    for place, order in enumerate(([lost, several], [several, lost])):
        with pytest.raises(UserError, match=rf"document {place} \(sample d\): 0 placeholders.*9 tokens"):
            model.hidden_states(pack(order))
    begun = replace(documents[2], input_ids=several.input_ids[:8], positions=several.positions[:, :8])
    cut = pack([*documents[:2], begun])
    with pytest.raises(UserError, match=r"document 2 \(sample b\): \d+ placeholders.*have \d+ tokens"):
        model.hidden_states(cut)
    bare = pack([replace(one, pixels=one.pixels[:0], grids=one.grids[:0], name="sample c")])
    with pytest.raises(UserError, match=r"document 0 \(sample c\): 9 placeholders.*have 0 tokens"):
        model.hidden_states(bare)


def test_half_precision_stays_close(model: Qwen3VL, processor: Processor) -> None:
    """bf16 autocast, whose attention takes another path on a CPU: same value and gradient to bf16's three digits."""
    batch = pack(conversations(processor)["batch"])
    loss = model.loss(batch)
    loss.backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(batch)
    rough.backward()
    assert rough.item() == pytest.approx(loss.item(), rel=0.02)
    for name, p in model.named_parameters():
        cosine = torch.cosine_similarity(p.grad.flatten(), exact[name].flatten(), dim=0)
        assert cosine > 0.99, (name, float(cosine))


def test_training_after_inference_mode(model: Qwen3VL, processor: Processor) -> None:
    """Index tensors cached under inference_mode must not poison later training."""
    batch = pack(conversations(processor)["several images"])
    with torch.inference_mode():
        model.loss(batch)
    model.loss(batch).backward()
    assert model.vision.patch.weight.grad is not None

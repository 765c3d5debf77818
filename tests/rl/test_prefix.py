"""The shared-prefix pass against the plain pass over whole documents: values and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import moe_config

from open4ov.engine import VisionCache
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import encoded_prompts, extended
from open4ov.rl.tasks import Task, boxed_prompt
from open4ov.sample import Message, Sample, user

IMAGES = [Image.new("RGB", (64, 32), (200, 30, 40)), Image.new("RGB", (32, 96), (20, 130, 40))]


def task(messages: list[Message], images: list[Image.Image]) -> Task:
    return Task(Sample(id="t", source="t", task="t", answer="7"), messages, images)


@pytest.fixture(params=["dense", "experts"])
def model(tiny_dir: Path, request: pytest.FixtureRequest) -> Qwen3VL:
    if request.param == "dense":
        return Qwen3VL.from_pretrained(tiny_dir)
    return Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)), seed=5)


@pytest.fixture
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


def groups(processor: Processor) -> tuple[list[Task], list[list[list[int]]]]:
    tasks = [
        task([user("What colour is the circle?", images=1)], IMAGES[:1]),
        task([user("1 + 1 =")], []),
        task([user("left or right?", images=2)], IMAGES),
    ]
    texts = [["red", "\\boxed{blue} and so on", "7"], ["2"], ["left", "right right right", "above", "no"]]
    return tasks, [[[*processor.tokenize(t), processor.eos_id] for t in group] for group in texts]


def test_equals_whole_documents(model: Qwen3VL, processor: Processor) -> None:
    tasks, responses = groups(processor)
    shared = SharedPrefix.build(encoded_prompts(processor, tasks, VisionCache(model, processor)), responses)
    logp, entropy = log_probs(model, shared, temperature=0.7)
    documents = [
        extended(processor.encode(t.prompt, t.images, generate=True), tokens)
        for t, group in zip(tasks, responses, strict=True)
        for tokens in group
    ]
    whole = pack(documents)
    expected, expected_entropy = model.log_probs(whole, temperature=0.7)
    torch.testing.assert_close(logp, expected[whole.targets], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy[whole.targets], atol=1e-5, rtol=1e-5)
    assert torch.bincount(shared.response).tolist() == [len(r) for group in responses for r in group]
    assert len(shared.pack.input_ids) < len(whole.input_ids)

    model.vision.requires_grad_(False)
    weights = torch.linspace(-1, 1, len(logp))
    gradients = []
    for values in (log_probs(model, shared, 0.7)[0], model.log_probs(whole, temperature=0.7)[0][whole.targets]):
        model.zero_grad()
        (values * weights).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient, gradients[1][name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_another_picture_changes_the_log_probs(model: Qwen3VL, processor: Processor) -> None:
    tasks, responses = groups(processor)
    other = Task(tasks[0].sample, tasks[0].prompt, [Image.new("RGB", (64, 32), (0, 0, 255))])
    with torch.no_grad():
        values = [
            log_probs(
                model, SharedPrefix.build(encoded_prompts(processor, [t], VisionCache(model, processor)), responses[:1])
            )[0]
            for t in (tasks[0], other)
        ]
    assert (values[0] - values[1]).abs().max() > 1e-3


def test_a_sampled_placeholder_is_a_token_like_any_other(model: Qwen3VL, processor: Processor) -> None:
    tasks, _ = groups(processor)
    tokens = [processor.image_id, 5, processor.eos_id]
    with torch.no_grad():
        logp, _ = log_probs(
            model, SharedPrefix.build(encoded_prompts(processor, tasks[:1], VisionCache(model, processor)), [[tokens]])
        )
        prompt = pack([processor.encode(tasks[0].prompt, tasks[0].images, generate=True)])
        expected = model.logits(model.hidden_states(prompt)[-1]).log_softmax(-1)[processor.image_id]
    assert len(logp) == 3
    assert logp[0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_groups_that_cannot_be_trained_on_are_refused(model: Qwen3VL, processor: Processor) -> None:
    tasks, responses = groups(processor)
    prompts = encoded_prompts(processor, tasks, VisionCache(model, processor))
    for wrong in (responses[:2], [[], *responses[1:]], [[[]], *responses[1:]]):
        with pytest.raises(ValueError, match="response"):
            SharedPrefix.build(prompts, wrong)


def test_the_instruction_is_added_once() -> None:
    once = boxed_prompt([user("How many?", images=1)])
    assert once[-1].text == "How many? The final answer MUST BE put in \\boxed{}."
    assert boxed_prompt(once) == once
    assert boxed_prompt([user("几个？")], "zh")[-1].text == "几个？最终答案必须放在 \\boxed{} 中。"


def test_a_prompt_without_its_features_is_refused(model: Qwen3VL, processor: Processor) -> None:
    tasks, responses = groups(processor)
    prompts = encoded_prompts(processor, tasks, VisionCache(model, processor))
    with pytest.raises(UserError, match=r"document 0: \d+ placeholders|other images"):
        log_probs(model, SharedPrefix.build([(prompts[0][0], None)], responses[:1]))
    with pytest.raises(UserError, match="other images"):
        log_probs(model, SharedPrefix.build([(prompts[0][0], prompts[2][1])], responses[:1]))

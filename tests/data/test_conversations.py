"""Open data with several turns or images is labelled by the same matching and judged as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import MadeUp, asker
from PIL import Image
from test_collect_images import collect

from open4ov.corpora import in_car
from open4ov.data import conversations
from open4ov.data.construct import make
from open4ov.data.verify import DIMENSIONS
from open4ov.formats.convert import import_set
from open4ov.mllm.ask import Request
from open4ov.mllm.known import known
from open4ov.recipe import DataSection
from open4ov.sample import Message, Part, Sample, assistant, user
from open4ov.store import ImageStore, read_samples

sys.path.insert(0, str(Path(__file__).parents[1] / "mllm"))
from endpoint import endpoint


def turn(role: str, *content: str) -> dict[str, Any]:
    """A message; a part that ends in .png is an image."""
    parts = [
        {"type": "image_url", "image_url": {"url": part}} if part.endswith(".png") else {"type": "text", "text": part}
        for part in content
    ]
    return {"role": role, "content": parts}


ROWS = {
    "turns": [turn("user", "a.png", "Which colour {{ x }}？"), turn("assistant", "Red."),
              turn("user", "Is it dark?"), turn("assistant", "Yes.")],
    "images": [turn("system", "Be brief."), turn("user", "First:", "a.png", "then:", "b.png", "Which is darker?"),
               turn("assistant", "The first.")],
    "single": [turn("user", "b.png", "What is it?"), turn("assistant", "A box.")],
    "text": [turn("user", "Hello"), turn("assistant", "Hi")],
    "unanswered": [turn("user", "a.png", "What?"), turn("assistant", "This."), turn("user", "And now?")],
    "silent": [turn("user", "a.png", "b.png", "Which?"), turn("assistant", " ")],
}  # fmt: skip


@pytest.fixture
def vertical(tmp_path: Path) -> tuple[dict[str, Sample], list[Sample], list[dict[str, str]], ImageStore]:
    """(the imported samples by name, what stage `images` makes of them, what it lists, the store)"""
    source = tmp_path / "open"
    source.mkdir()
    for name, colour in (("a", 40), ("b", 200)):
        Image.effect_noise((60, 40), colour).convert("RGB").save(source / f"{name}.png")
    lines = [json.dumps({"messages": messages, "licence": "CC0"}, ensure_ascii=False) for messages in ROWS.values()]
    (source / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    import_set(source / "train.jsonl", tmp_path / "set", images=[source])
    samples = read_samples(tmp_path / "set" / "samples.parquet")
    found, _, skipped, run = collect(tmp_path, vertical=str(tmp_path / "set"), general_count=0)
    return dict(zip(ROWS, samples, strict=True)), found, skipped, run.images


def build(images: list[Sample], store: ImageStore, provider: MadeUp, **options: Any) -> Any:
    section = DataSection.model_validate({"topics_per_pair": 1, **options})
    return make(images, section, store, asker=asker(section, provider))


def test_turns_and_images_stay_and_what_cannot_be_judged_is_listed(vertical: Any) -> None:
    imported, found, skipped, store = vertical
    assert [len(sample.messages) for sample in found] == [0, 4, 3]
    for name, sample in zip(("turns", "images"), found[1:], strict=True):
        assert (sample.id, sample.messages) == (imported[name].id, imported[name].messages)
        assert sample.images == imported[name].images
        assert all(store.get(sha) for sha in sample.images)
    assert [sample.answer for sample in found[1:]] == ["Yes.", "The first."]
    reasons = {entry["file"]: entry["reason"] for entry in skipped}
    assert reasons == {
        imported["text"].id: "text alone: construction looks at images; as images.general it comes as it is",
        imported["unanswered"].id: "its last turn has no answer",
        imported["silent"].id: "its last turn has no answer",
    }


def test_they_get_labels_topics_density_votes_and_checks_as_a_whole(vertical: Any) -> None:
    imported, found, _, store = vertical
    provider = MadeUp()
    result = build(found, store, provider)
    kept = {sample.id: sample for sample in result.samples}
    for name in ("turns", "images"):
        sample = kept[imported[name].id]
        assert (sample.messages, sample.images) == (imported[name].messages, imported[name].images)
        assert {label.axis for label in sample.labels} == {"domain", "ability"}
        assert sample.topics == list(dict.fromkeys(sample.extra["turn_topics"]))
        assert len(sample.extra["turn_topics"]) == len(conversations.questions(sample))
        assert set(sample.density) == {"subjects", "space", "ocr", "knowledge", "ids"}
        assert sample.budget is None
        assert [vote.score for vote in sample.votes] == [1, 1, 1]
        assert len(sample.checks) == 5
        assert sample.extra["fields"]["licence"] == "CC0"
    assert result.report["conversations"] == {
        "given": 2, "judged": 2, "kept": 2, "images": {"1": 1, "2": 1}, "questions": {"1": 1, "2": 1},
    }  # fmt: skip
    assert len(provider.of("synthesize")) == 1, "for the image that is no conversation"
    both = [r for r in provider.of("judge_1") if len(r.images) == 2]
    assert [picture.sha for picture in both[0].images] == imported["images"].images
    text = both[0].prompt.text
    assert "a conversation about 2 images" in text
    assert "user: First: [image 1] then: [image 2] Which is darker?" in text
    assert "system: Be brief." in text
    asked = next(r for r in provider.of("rank") if "Is it dark?" in r.prompt.text)
    assert (
        "user: [image 1] Which colour {{ x }}？\nassistant: Red.\nuser: Is it dark?\nassistant: Yes."
        in asked.prompt.text
    )
    assert len(provider.of("density")) == 4, "each image of each"
    assert len(provider.of("verify")) == 3


def reply(body: dict[str, Any], number: int) -> str:
    """A model that plays every role, and says no where it is not shown both images of a conversation about two."""
    schema = body["response_format"]["json_schema"]["name"]
    *shown, text = body["messages"][0]["content"]
    complete = "2 images" not in text["text"] or [part["type"] for part in shown] == ["image_url"] * 2
    ok = {"ok": complete, "score": 5, "reason": "fine"}
    answers: dict[str, Any] = {
        "Ranking": {"description": "noise", "domain": ["Nature", "Others"], "ability": ["Counting", "Others"]},
        "Topics": {"topics": ["Counting grains"]},
        "Density": {"subjects": 0.5, "space": 0.25, "ocr": 0, "knowledge": 0},
        "Pairs": {"pairs": []},
        "Judgement": {"score": int(complete), "reason": "r"},
        "Verification": dict.fromkeys(DIMENSIONS, ok),
    }
    return json.dumps(answers[schema])


def test_an_endpoint_is_shown_all_images_and_the_lineage_names_its_prompts(
    vertical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported, found, _, store = vertical
    monkeypatch.setenv("TEST_KEY", "k")
    with endpoint(reply) as server:
        provider = {"kind": "openai", "base_url": server.url, "model": "m", "api_key_env": "TEST_KEY"}
        section = DataSection.model_validate({"providers": {"default": provider}, "topics_per_pair": 1})
        result = make(found, section, store)
    kept = {sample.id: sample for sample in result.samples}
    both = kept[imported["images"].id]
    assert both.density["ids"] == pytest.approx(0.2)
    assert sorted({f"{step.stage} = {step.prompt} by {step.by}" for step in both.steps if step.prompt is not None}) == [
        "density = density@2 by m", "judge_1 = judge_conversation@1 by m", "judge_2 = judge_conversation@1 by m",
        "judge_3 = judge_conversation@1 by m", "rank = rank_conversation@1 by m", "topics = topics@1 by m",
        "verify = verify_conversation@1 by m",
    ]  # fmt: skip
    (single,) = [sample for sample in kept.values() if "annotation" in sample.extra]
    assert ("judge_1", "judge@2") in {(step.stage, step.prompt) for step in single.steps}


class Stern(MadeUp):
    """Two of its judges refuse what mentions a word."""

    def answer(self, request: Request) -> dict[str, Any]:
        answer = super().answer(request)
        if request.role in ("judge_1", "judge_3") and "darker" in request.prompt.text:
            return {"score": 0, "reason": "turn 1 is wrong"}
        return answer


def test_a_refused_conversation_is_kept_among_the_rejected_with_its_votes(vertical: Any) -> None:
    imported, found, _, store = vertical
    result = build(found, store, Stern(), inject_defects=1.0)
    (gone,) = [sample for sample in result.rejected if sample.id == imported["images"].id]
    assert gone.extra["rejected_by"] == "judges"
    assert [vote.score for vote in gone.votes] == [0, 1, 0]
    assert gone.messages == imported["images"].messages
    assert result.report["conversations"]["kept"] == 1
    assert not any("defect" in s.extra and conversations.whole(s) for s in result.rejected)


def test_one_that_no_label_fits_is_listed(vertical: Any) -> None:
    imported, found, _, store = vertical

    class Elsewhere(MadeUp):
        def answer(self, request: Request) -> dict[str, Any]:
            answer = super().answer(request)
            if request.role == "rank" and len(request.images) == 2:
                answer["domain"] = ["Others", *answer["domain"][:-1]]
            return answer

    result = build(found, store, Elsewhere())
    assert imported["turns"].id in {sample.id for sample in result.samples}
    (entry,) = [entry for entry in result.report["skipped"] if entry["image"] == imported["images"].id]
    assert entry["reason"] == "no domain label above Others"


def test_hygiene_comes_before_a_model_reads_them(vertical: Any, tmp_path: Path) -> None:
    imported, found, _, store = vertical
    tsv = tmp_path / "exam.tsv"
    tsv.write_text("index\tquestion\tanswer\n3\tWho wrote the novel Pride and Prejudice?\tAusten\n")
    told = found[1].model_copy(update={"messages": [*found[1].messages, user("Mail a@b.org?"), assistant("No.")]})
    asks = [user("What?", images=1), assistant("This."), user("Who wrote the novel Pride and Prejudice?"),
            assistant("It was Jane Austen.")]  # fmt: skip
    contaminated = found[1].model_copy(update={"id": "contaminated", "messages": asks})
    provider = MadeUp()
    options = {"personal_data": {"email": "mask"}, "decontaminate": [str(tsv)]}
    result = build([told, contaminated], store, provider, hygiene=options)
    assert not any("a@b.org" in r.prompt.text or "Prejudice" in r.prompt.text for r in provider.asked)
    (kept,) = result.samples
    assert kept.messages[-2].text == "Mail [email]?"
    (gone,) = result.rejected
    assert (gone.id, gone.extra["rejected_by"]) == ("contaminated", "decontamination")
    assert result.report["counts"]["hygiene_rejected"] == 1
    assert imported["turns"].id == kept.id


@pytest.mark.parametrize("wrong", [False, True])
def test_the_catalog_judges_turn_by_turn(tmp_path: Path, wrong: bool) -> None:
    """Its three judges know the in-car symbols: a conversation with one wrong answer does not pass."""
    store = ImageStore(tmp_path / "store")
    drawn = next(iter(in_car.pictures("train", 1, 0))).store(store)
    assert drawn.scene is not None
    by_task = {qa.task: qa for pairs in known(drawn.scene, "en").values() for qa in pairs}
    messages: list[Message] = []
    for number, (task, qa) in enumerate(sorted(by_task.items())[:2]):
        said = "A bicycle lane begins." if wrong and number else qa.response
        messages += [user(qa.question, images=1 - number), assistant(said)]
        assert task
    sample = drawn.model_copy(update={"id": "talk", "messages": messages, "answer": messages[-1].text})
    result = make([sample], DataSection(), store)
    found = {s.id: s for s in (*result.samples, *result.rejected)}
    assert [s.id for s in result.samples] == ([] if wrong else ["talk"])
    votes = {vote.judge.split(":")[1]: vote for vote in found["talk"].votes}
    assert votes["rules"].score == (0 if wrong else 1)
    assert votes["rules"].reason.startswith("turn 2: by the annotation" if wrong else "holds by the annotation")


def test_a_video_is_shown_by_its_frames() -> None:
    shown = Message(
        role="user", content=[Part(type="video", index=0, times=[0, 1, 2]), Part(type="text", text="What?")]
    )
    sample = Sample(
        id="v", source="s", task="t", images=["a", "b", "c"], messages=[shown, assistant("x")], topics=["t"]
    )
    assert conversations.whole(sample)
    request = conversations.rank(sample, [], _tree(), "")
    assert "user: [video, images 1 to 3] What?" in request.prompt.text
    assert "Look at the 3 images" in request.prompt.text


def _tree() -> Any:
    from open4ov.data import labels

    return labels.load()


def test_density_is_the_mean_of_the_images() -> None:
    scores = [{"subjects": 0.5, "ocr": 1.0}, {"subjects": 0.25, "ocr": 0.0}]
    assert conversations.density(scores) == {"subjects": 0.375, "ocr": 0.5}
    assert conversations.density(scores[:1]) is scores[0]

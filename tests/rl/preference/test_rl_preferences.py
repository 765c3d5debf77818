"""Which pairs of people and judges a run is trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.engine import Completion, Request
from open4ov.errors import UserError
from open4ov.recipe import DpoSection
from open4ov.rl.preference import human, mining, mix
from open4ov.rl.rewards import exact
from open4ov.rl.tasks import task
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageStore, write_samples


def pair(name: str, kind: str = "human", chosen: str = "good", **attributes: Any) -> Sample:
    return Sample(
        id=name,
        source="t",
        task="preference",
        messages=[user(f"question {name}"), assistant(chosen)],
        rejected=[assistant("bad")],
        extra={"pair": kind, **({"attributes": attributes} if attributes else {})},
    )


def names(chosen: mix.Chosen) -> list[str]:
    return [one.id for one in chosen.pairs]


def test_shares_by_kind_and_what_is_short() -> None:
    given = [pair(f"h{n}") for n in range(10)] + [pair(f"c{n}", "corrective") for n in range(3)] + [pair("s", "scored")]
    section = DpoSection(pairs=20, mix={"human": 0.3, "corrective": 0.4, "image_normal": 0.3}, preferences=["x"])
    found = mix.choose(given, section, seed=0)
    assert found.counts == {"corrective": 3, "human": 6}
    assert found.listed == {"no_share": ["s"]}
    assert found.notes == [
        "dpo.mix has no share for pairs of kind scored: 1 are left out",
        "dpo.mix: 3 pairs of kind corrective for a share of 8; there are no more",
    ]
    assert names(found) == names(mix.choose(given[::-1], section, seed=0)), "the order of the files says nothing"
    assert names(found) != names(mix.choose(given, section, seed=1))


def test_attributes_select_and_rank() -> None:
    given = [
        pair("clear", politeness="chosen", length="chosen"),
        pair("polite", politeness={"chosen": 4.0, "rejected": 3.5}),
        pair("rude", politeness="rejected"),
        pair("torn", politeness="chosen", length={"chosen": 1.0, "rejected": 9.0}),
        pair("silent"),
        pair("other", fluency="chosen"),
    ]
    section = DpoSection(pairs=10, mix={"human": 1.0}, attributes={"politeness": 1.0, "length": 0.5})
    found = mix.choose(given, section, seed=0)
    assert names(found)[0] == "clear"
    assert set(names(found)) == {"clear", "polite", "torn"}
    assert {name: sorted(ids) for name, ids in found.listed.items()} == {
        "no_attribute": ["other", "silent"],
        "not_better": ["rude"],
    }
    less = mix.choose(given, section.model_copy(update={"attributes": {"length": -1.0}}), seed=0)
    assert names(less) == ["torn"], "a negative weight wants less of it"
    said = ("chosen", "rejected", "equal", {"chosen": 1.0, "rejected": 3.0})
    assert [mix.lead(value, 4.0) for value in said] == [1, -1, 0, -0.5]
    with pytest.raises(ValueError, match="no attribute's value"):
        mix.lead("better")


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
def test_the_clearest_come_first_on_any_scale(scale: float) -> None:
    """Ratings from 1 to 5, from 0.01 to 0.05 and from 20 to 100 say the same."""
    rated = {"a": (2, 1), "b": (5, 1), "c": (4, 1), "d": (4, 2), "e": (1, 3)}
    given = [
        pair(name, politeness={"chosen": scale * chosen, "rejected": scale * rejected}, length="chosen")
        for name, (chosen, rejected) in rated.items()
    ]
    section = DpoSection(pairs=10, mix={"human": 1.0}, attributes={"politeness": 1.0, "length": 0.1})
    assert names(mix.choose(given, section, seed=0)) == ["b", "c", "d", "a"]
    assert mix.spreads(given) == {"politeness": pytest.approx(4 * scale)}


def test_a_pair_that_is_there_twice_is_taken_once() -> None:
    twin = pair("a").model_copy(update={"id": "b"})
    found = mix.choose([pair("a"), twin], DpoSection(pairs=5, mix={"human": 1.0}), seed=0)
    assert len(found.pairs) == 1
    assert found.listed == {"there_twice": ["b"]}


def test_of_more_pairs_so_many_are_drawn_of_all_kinds() -> None:
    pairs = [pair(f"{kind}{n}", kind) for kind in ("human", "scored") for n in range(200)]
    kept, others = mix.drawn(pairs, 100, 3)
    assert [one.id for one in pairs if one in kept] == [one.id for one in kept], "in their order"
    assert len(kept) == 100
    assert {one.id for one in kept} | {one.id for one in others} == {one.id for one in pairs}
    assert 30 < sum(one.extra["pair"] == "human" for one in kept) < 70
    assert mix.drawn(pairs, 100, 3)[0] == kept
    assert mix.drawn(pairs, 100, 4)[0] != kept
    assert mix.drawn(pairs, 400, 3) == (pairs, [])


def test_the_summary_counts_attributes() -> None:
    told = mix.attributes([pair("a", length="chosen"), pair("b", length="rejected", fluency="equal"), pair("c")])
    assert told == {
        "fluency": {"pairs": 1, "chosen": 0, "rejected": 0, "equal": 1},
        "length": {"pairs": 2, "chosen": 1, "rejected": 1, "equal": 0},
    }


# ---- from files ----


def test_files_of_others_are_read_with_their_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), (9, 9, 9)).save(tmp_path / "a.png")
    rows: list[dict[str, Any]] = [
        {"prompt": "What?", "chosen": "this", "rejected": "that", "images": ["a.png"]},
        {"prompt": "What?", "chosen": "this"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store, said = ImageStore(tmp_path / "own"), list[str]()
    (found,) = human.read(tmp_path / "pairs.jsonl", images=store, note=said.append)
    assert store.get(found.images[0]).size == (5, 5)
    assert found.extra["pair"] == "human"
    assert len(said) == 1
    assert "1 rows refused" in said[0]
    assert "line 2" in said[0]
    assert human.read(tmp_path / "pairs.jsonl", "trl")[0].messages == found.messages


def test_a_reviewed_set_gives_what_its_reviewers_corrected(tmp_path: Path) -> None:
    def reviewed(name: str, **before: str) -> Sample:
        messages = [user("What?"), assistant("A sign.")]
        return Sample(id=name, source="t", task="t", messages=messages, extra={"before_fix": before})

    samples = [
        reviewed("a", question="What?", response="a sing"),
        reviewed("b", question="Which?", response="a sing"),
        reviewed("c", question="What?", response="A sign. "),
        Sample(id="d", source="t", task="t", messages=[user("?"), assistant("!")]),
    ]
    write_samples(tmp_path / "set" / "samples.parquet", samples)
    said: list[str] = []
    (found,) = human.read(tmp_path / "set", note=said.append)
    assert (found.extra["pair"], found.lineage) == ("corrective", ["a"])
    assert [m.text for m in (found.messages[-1], *(found.rejected or ()))] == ["A sign.", "a sing"]
    assert "3 samples are no preference pairs" in said[0]


def test_a_path_without_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        human.read(tmp_path / "nothing")
    write_samples(tmp_path / "samples.parquet", [Sample(id="d", source="t", task="t", messages=[user("?")])])
    with pytest.raises(UserError, match="none of 1 samples is a preference pair"):
        human.read(tmp_path)


# ---- from the model's own responses ----


class Says:
    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
        assert all(request.n == mining.RESPONSES for request in requests)
        return [[Completion(text, [1], [0.0], "stop", 0) for text in self.texts] for _ in requests]


def asked(count: int) -> list[Sample]:
    return [Sample(id=f"s{n}", source="t", task="t", messages=[user(f"q{n}"), assistant("x")]) for n in range(count)]


def mine(texts: tuple[str, ...], score: mining.Score, count: int = 3) -> list[Sample]:
    return mining.mine(asked(5), count, Says(*texts), lambda _: Image.new("RGB", (4, 4)), score, seed=0)


def test_the_best_response_is_chosen_over_the_worst() -> None:
    found = mine(("long one", "x", "mid", "x"), lambda sample, texts: [-len(text) for text in texts])
    assert len(found) == 3
    assert (found[0].messages[-1].text, (found[0].rejected or [])[0].text) == ("x", "long one")
    assert found[0].extra["pair"] == "mined"
    by = mine(("a", "bb"), lambda sample, texts: {"length": [0, 1], "fluency": [5, 1]})
    assert by[0].extra["attributes"] == {
        "length": {"chosen": 0.0, "rejected": 1.0},
        "fluency": {"chosen": 5.0, "rejected": 1.0},
    }


def test_responses_that_are_alike_make_no_pair() -> None:
    assert mine(("a", "a ", "a", "a"), lambda sample, texts: range(len(texts))) == []
    assert mine(("a", "b", "c", "d"), lambda sample, texts: [1.0] * len(texts)) == []


def test_a_judge_that_gives_too_few_scores_is_named() -> None:
    with pytest.raises(UserError, match=r"dpo.mined: score: 2 responses want a number each, got \[1\]"):
        mine(("a", "b"), lambda sample, texts: [1])
    with pytest.raises(UserError, match="nan"):
        mine(("a", "b"), lambda sample, texts: [1, float("nan")])


def verify(*texts: str, count: int = 9, stopped: str = "stop") -> list[Sample]:
    class Boxes(Says):
        def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
            return [[Completion(text, [1] * len(text), [], stopped, 0) for text in self.texts] for _ in requests]

    made = [sample.model_copy(update={"answer": "4"}) for sample in asked(5)]
    tasks = [task(sample, []) for sample in made]
    return mining.verify(tasks, count, Boxes(*texts), exact, "r:e", 16, seed=0)  # pyright: ignore[reportArgumentType]


def test_of_the_tasks_of_rl_the_shortest_right_response_is_chosen_over_a_wrong_one() -> None:
    found = verify("2+2=4. \\boxed{4}", "\\boxed{4}", "\\boxed{5}", "\\boxed{6}")
    assert len(found) == 5
    assert all((p.messages[-1].text, (p.rejected or [])[0].text) == ("\\boxed{4}", "\\boxed{5}") for p in found)
    assert all("\\boxed{}" in pair.messages[0].text for pair in found), "asked as RL asks"
    assert {pair.extra["pair"] for pair in found} == {"verified"}
    assert len(verify("\\boxed{4}", "\\boxed{5}", count=2)) == 2


def test_tasks_are_asked_until_there_are_pairs_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "AT_ONCE", 2)
    assert len(verify("\\boxed{4}", "\\boxed{5}", count=3)) == 3
    assert len(verify("\\boxed{4}", "\\boxed{5}", count=9)) == 5, "each task once"


def test_tasks_that_are_always_or_never_answered_rightly_make_no_pair() -> None:
    assert verify("\\boxed{4}", "so \\boxed{4}") == []
    assert verify("\\boxed{5}", "so \\boxed{6}") == []
    assert verify("\\boxed{4}", "\\boxed{5}", stopped="length") == []

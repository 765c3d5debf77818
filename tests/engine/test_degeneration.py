"""What counts as a loop or as noise, and what does not."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from test_generate import picture

from open4ov.engine import Engine, Request
from open4ov.engine.degeneration import EVERY, Degeneration
from open4ov.engine.grammar import Grammars
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

NANO = Path(__file__).parents[2] / "src" / "open4ov" / "assets" / "nano"
WATCH = Degeneration()


@pytest.mark.parametrize("period", [1, 2, 7, 40, 128])
def test_a_loop_of_any_length_is_seen(period: int) -> None:
    unit = random.Random(period).sample(range(1000), period)
    before = random.Random(9).sample(range(1000, 2000), 30)
    needed = max(WATCH.repeated, WATCH.times * period)
    looped = before + (unit * needed)[:needed]
    assert WATCH.repeats(looped)
    assert not WATCH.repeats(looped[:-1])
    assert not WATCH.repeats([*looped, 5000])


def test_what_resembles_a_loop_is_none() -> None:
    rows = [token for row in range(60) for token in (1, 2, 3, 100 + row, 4)]  # a table: one cell differs
    assert not WATCH.repeats(rows)
    assert not WATCH.repeats([7] * (WATCH.repeated - 1))
    counted = [token for number in range(50) for token in (*map(ord, str(number)), 0)]
    assert not WATCH.repeats(counted)


CLEAN = [
    "The warning light means that the oil pressure is too low. Stop the car as soon as it is safe to do so.",
    "机油压力警告灯亮起，请立即在安全的地方停车并熄火，然后检查机油的油位，必要时联系维修站。",
    "Das Fahrzeug zeigt ABS 故障 (fault code C0035); bitte prüfen Sie den Sensor vorne links 左前传感器.",
    "エンジンオイルの圧力が低下しています。すぐに車を止めてください。安全な場所でエンジンを切る。",
    "| light | meaning |\n|---|---|\n| ⚠️ | warning |\n| 🛑 | stop |\n\\boxed{\\frac{1}{2}} ∑ α·β ≤ γ; x₁ → y²",
    json.dumps({"name": "oil", "severity": "high", "codes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}),
    "def f(x):\n    return [y ** 2 for y in range(x) if y % 3 == 0]\n\n\nprint(f(10), '你好', 'привет')\n",
    "",
]


@pytest.mark.parametrize("text", CLEAN[:-1])
def test_text_is_no_noise(text: str) -> None:
    assert not WATCH.garbled(text)


@pytest.mark.parametrize(
    "text",
    [
        "ab\ufffd\ufffdcd\ufffd\ufffd\ufffdef\ufffd\ufffdgh",
        "\x00\x01\x02text\x03\x04\x05",
        "\ue000\ue001\ue002 ab \ue003\ue004",
        "".join(
            map(
                "".join,
                zip("oilпреswarningшинаlight" * 2, "油压力警告灯亮起请立即停车熄火检查机油位必要" * 2, strict=False),
            )
        ),
        "\ufffd\ufffd",
        "".join(map(chr, random.Random(0).sample(range(0x370, 0x3000), 60))),
    ],
)
def test_noise_is_seen(text: str) -> None:
    assert WATCH.garbled(text)


def test_half_a_character_at_an_end_is_no_noise() -> None:
    assert not WATCH.garbled("\ufffd油压\ufffd")


def test_tokens_as_unlikely_as_noise() -> None:
    def reason(log_p: float, count: int = 64) -> str | None:
        return WATCH.reason(list(range(count)), [log_p] * count, 6144, lambda ids: "words and words " * len(ids))

    limit = -0.75 * math.log(6144)
    assert reason(limit - 0.01) == "garbled"
    assert reason(limit + 0.01) is None
    assert reason(limit - 0.01, WATCH.window - 1) is None
    assert WATCH.reason(list(range(64)), [], 6144, lambda ids: "words and words " * len(ids)) is None


@pytest.fixture(scope="module")
def nano() -> Engine:
    return Engine(Qwen3VL.from_pretrained(NANO), Processor.from_pretrained(NANO))


def test_word_salad_of_the_shipped_model_is_stopped_and_its_answers_are_not(nano: Engine) -> None:
    question = [user("Describe the image.", images=1)]
    asked = [
        Request(question, [picture(n)], max_tokens=200, n=4, temperature=heat, degeneration=WATCH)
        for heat, n in ((0.0, 1), (1.0, 2), (4.0, 3))
    ]
    greedy, warm, hot = nano.generate(asked)
    assert {one.finish_reason for one in (*greedy, *warm)} <= {"stop", "length"}
    assert any(one.finish_reason == "garbled" for one in hot)
    for one in hot:  # some end by chance before there is enough to see
        assert (
            len(one.token_ids) == WATCH.window if one.finish_reason == "garbled" else len(one.token_ids) < WATCH.window
        )


def test_a_loop_is_stopped_where_it_is_seen(tiny_dir: Path) -> None:
    """Of random weights; a response is the same as without, up to where it is stopped."""
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    watch = Degeneration(surprise=2.0, share=1.1, repeated=8)
    plain = [Request([user(f"Question {i}")], max_tokens=120) for i in range(6)]
    found = engine.generate(plain)
    stopped = engine.generate([Request(one.messages, max_tokens=120, degeneration=watch) for one in plain])
    assert any(one.finish_reason == "repetition" for (one,) in stopped), "greedy random weights loop"
    for (whole,), (cut,) in zip(found, stopped, strict=True):
        assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
        first = next((n for n in range(EVERY, len(whole.token_ids), EVERY) if watch.repeats(whole.token_ids[:n])), None)
        assert (cut.finish_reason == "repetition") == (first is not None)
        assert len(cut.token_ids) == (first or len(whole.token_ids))


def test_what_a_grammar_dictates_is_left_out() -> None:
    def reason(tokens: list[int], free: list[bool]) -> str | None:
        return WATCH.reason(tokens, [], 6144, lambda ids: "".join(map(chr, ids)), [not one for one in free])

    text = [ord(one) for one in CLEAN[0]]
    assert reason([91, *[48, 44, 32] * 80], [True] + [False] * 240) is None
    assert reason([0xE000] * 60 + text, [False] * 60 + [True] * len(text)) is None, "not the model's own noise"
    assert reason([0xE000] * 60, [True] * 60) == "garbled"
    rows = [token for row in range(100) for token in (34, 97, 34, 48)]  # the same choice after the same dictated words
    assert reason(rows, [token == 48 for token in rows]) == "repetition"
    assert reason(rows[: 4 * 60], [token == 48 for token in rows[: 4 * 60]]) is None


@pytest.mark.parametrize("item", [{"const": 0}, pytest.param({"const": "油压"}, marks=pytest.mark.slow)])
def test_eighty_items_that_a_schema_dictates_come_whole(tiny_dir: Path, item: dict[str, object]) -> None:
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir), kv_tokens=1 << 16)
    grammars = Grammars(engine.processor, engine.model.config.text.vocab_size)
    schema = {"type": "array", "items": item, "minItems": 80, "maxItems": 80}
    longest = engine.longest - 64
    asked = Request([user("Go")], max_tokens=longest, grammar=grammars.json_schema(schema), degeneration=WATCH)
    ((found,),) = engine.generate([asked])
    assert found.finish_reason == "stop"
    assert json.loads(found.text) == [item["const"]] * 80


def test_a_free_string_in_a_schema_is_still_watched(tiny_dir: Path) -> None:
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    grammars = Grammars(engine.processor, engine.model.config.text.vocab_size)
    grammar = grammars.regex(r"seen: [ab]*")
    asked = Request([user("Go")], max_tokens=200, grammar=grammar, degeneration=Degeneration(share=1.1))
    ((found,),) = engine.generate([asked])
    assert found.finish_reason == "repetition", found.text

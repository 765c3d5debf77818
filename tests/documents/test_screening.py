"""The second pass by rule: what it catches, and what it leaves alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.documents.screening import text_defects

CLEAN = [
    "What is the reading of the ammeter in the figure?",
    "The graph shows the speed of a car from 0 s to 12 s. At what time is it 20 m/s?",
    "In the circuit below, R1 = 10 Ω and the battery gives 4.5 V. What current flows through R1?",
    "Which of the labelled parts (A to D) of the cell makes energy available?",
    "A block of mass 2.0 kg slides down the plane, e.g. the one shown in Fig. 3. Find its acceleration.",
    "The solution of CO2 in H2O turns the paper red. What does the picture show?",
    "如图所示，一个物体放在斜面上，求它受到的摩擦力。",
    "图中曲线表示水位的变化，几月份的水位最高？",
    "读图，回答问题：甲地的海拔是多少米？",
    "The angle between the two mirrors is 60°. How many images of the candle are seen?",
    "Name the organ labelled X. What does it do? Give one example of its use.",
    "The bar chart gives the sales of five shops in 2021. Which shop sold more than 1,000 pieces?",
    "The mp3 player in the photo costs 10 euros. What is its price with tax of 20 %?",
    "At 100 m above the sea, the pressure is 1.0e5 Pa. What is it at the point P?",
]
SPOILT = [
    ("mojibake", "The cafÃ© in the picture has how many tables?"),
    ("mojibake", "The tank\u2019s level â€œrisesâ€\u009d by how much?"),
    ("mojibake", "What is (cid:23)(cid:12) in the figure?"),
    ("mojibake", "如图所示，锟斤拷物体的质量是多少？"),
    ("mojibake", "What is the va\ufffdue shown?"),
    ("broken_words", "W h a t i s the value of the current?"),
    ("broken_words", "如 图 所 示 物 体 的 质 量 是多少？"),
    ("confusion", "What is the va1ue of the current in the figure?"),
    ("confusion", "The c0lour of the flame is which of these?"),
    ("confusion", "The mass is 1O0 g. What is its weight in the figure?"),
    ("confusion", "What is the vаlue of the сurrent shown?"),
    ("repeated", "The tank is the tank is the tank is the tank is full?"),
    ("repeated", "how many many many many many lamps are lit?"),
    ("repeated", "物体的质量物体的质量物体的质量物体的质量是多少？"),
    ("reordered", "The ball rolls down the plane. and stops at the wall after two seconds. Where does it stop?"),
    ("reordered", "What is the area of the. The shaded part is a circle?"),
    ("reordered", "The shaded part is half of the circle. The shaded part is half of the circle. What is its area?"),
    ("reordered", "求物体的质量。，如图所示放在桌上？"),
    ("self_talk", "As an AI, I cannot see the figure, but what is the mass?"),
    ("self_talk", "Let me re-read the image. What is the reading?"),
    ("self_talk", "The text says the ball is red. What is its colour?"),
    ("self_talk", "Here is the transcription: What is the mass?"),
    ("self_talk", "</think> What is the mass of the block?"),
    ("self_talk", "让我再看一下图片。物体的质量是多少？"),
    ("self_talk", "作为一个AI语言模型，我认为质量是多少？"),
]


def drops(text: str) -> list[str]:
    return [defect.kind for defect in text_defects(text) if defect.verdict == "drop"]


@pytest.mark.parametrize("text", CLEAN)
def test_sound_texts_pass(text: str) -> None:
    assert drops(text) == []


@pytest.mark.parametrize(("kind", "text"), SPOILT)
def test_spoilt_texts_do_not(kind: str, text: str) -> None:
    assert kind in drops(text)


def _mojibake(text: str, rng: random.Random) -> str:
    return text + " é£".encode().decode("latin-1")


def _confuse(text: str, rng: random.Random) -> str:
    words = text.split()
    places = [
        i
        for i, word in enumerate(words)
        if word.isalpha() and word.islower() and set("loe") & set(word[1:-1]) and len(word) > 4
    ]
    at = rng.choice(places)
    word = words[at]
    spot = rng.choice([i for i in range(2, len(word) - 2) if word[i] in "loe"] or [len(word) // 2])
    words[at] = word[:spot] + rng.choice("10") + word[spot + 1 :]
    return " ".join(words)


def _space(text: str, rng: random.Random) -> str:
    words = text.split()
    at = max(range(len(words)), key=lambda i: len(words[i]) if words[i].isalpha() else 0)
    words[at] = " ".join(words[at])
    return " ".join(words)


def _talk(text: str, rng: random.Random) -> str:
    said = [
        "Let me look again.",
        "As a language model, I see this:",
        "The image says:",
        "I'm sorry, here it is:",
        "Wait, no:",
    ]
    return f"{rng.choice(said)} {text}"


def _reorder(text: str, rng: random.Random) -> str:
    words = text.split()
    cut = rng.randrange(3, len(words) - 2)
    return " ".join([*words[cut:], *words[:cut]])


SENTENCES = [
    "The camera above the station measures the colour of the yellow balloon. What colour does the photograph show?",
    "The people below the bridge follow the yellow line to the hotel. Where does the yellow line end in the figure?",
    "The small model of the tower stands below the old clock. What time does the clock show in the picture?",
    "The table below the window holds several glass bottles of oil. How many bottles are full in the picture?",
]


@pytest.mark.parametrize(
    ("spoil", "least"), [(_mojibake, 1.0), (_space, 1.0), (_talk, 1.0), (_confuse, 0.9), (_reorder, 0.5)]
)
def test_recall_on_defects_put_in(spoil: object, least: float) -> None:
    rng = random.Random(3)
    assert all(not drops(sentence) for sentence in SENTENCES)
    caught = [bool(drops(spoil(rng.choice(SENTENCES), rng))) for _ in range(200)]  # pyright: ignore
    assert sum(caught) / len(caught) >= least


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert all(defect.piece is not None and defect.verdict in ("drop", "flag") for defect in text_defects(text))

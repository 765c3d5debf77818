"""Composed documents with what is on them: figures with captions and boxes, and questions with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from documents.compose import Sheet, photo, save

Known = tuple[int, tuple[float, float, float, float], str]
"""Page, box in points, caption (empty: none)"""

LEFT = [
    "The pump lifts water from the well and the",
    "tank holds it until the garden needs it. The",
    "valve opens by itself when the level falls.",
]
RIGHT = [
    "A sensor in the tank measures the level and",
    "sends it to the panel by the door. The panel",
    "shows the level as a number of centimetres.",
]
WIDE = [
    "The station was built by the river in the spring, and it has been measuring the level of the water every hour",
    "since then. Its readings are sent to the valley, where they are compared with those of the other stations.",
    "Whoever lives by the river is warned when the level rises faster than the river can carry it away.",
]


def article(path: Path) -> list[Known]:
    """Four pages: one column, two columns, drawings among frames and rules, captions above and below."""
    one = Sheet()
    y = one.text(72, 60, "1 The station by the river", 18, bold=True)
    y = one.paragraph(72, y + 8, WIDE)
    one.image((200, 200, 400, 350), photo(1))
    one.text(230, 358, "Figure 1. The station in spring.")
    one.paragraph(72, 400, ["As Figure 1 shows, the station stands on poles. " + "It is reached by boat.", *WIDE])
    one.rule(72, 500, 468)
    one.plot((150, 540, 350, 680))
    one.text(170, 700, "Fig. 2: Level of the water over a day")
    one.text(300, 765, "1")
    two = Sheet()
    two.text(72, 50, "Two columns and a wide title across both of them", 16, bold=True)
    y = two.paragraph(60, 100, LEFT * 3)
    two.image((70, y + 10, 270, y + 130), photo(2))
    two.text(80, y + 136, "Figure 3: The tank and its valve")
    left_figure = (70.0, y + 10, 270.0, y + 130)
    two.paragraph(60, y + 170, LEFT * 3)
    y = two.paragraph(330, 100, RIGHT * 4)
    two.text(340, y + 6, "Figure 4: The panel by the door")
    two.image((340, y + 24, 540, y + 144), photo(3))
    right_figure = (340.0, y + 24, 540.0, y + 144)
    two.paragraph(330, y + 180, RIGHT * 2)
    two.text(300, 765, "2")
    three = Sheet()
    three.frame((60, 60, 552, 130), fill=True)
    three.paragraph(72, 66, WIDE)
    y = three.text(72, 160, "Table 1. Readings of a week")
    for row in range(4):
        three.frame((72, y + 20 * row, 272, y + 20 * row + 20))
        three.frame((272, y + 20 * row, 472, y + 20 * row + 20))
        three.text(80, y + 20 * row + 5, f"day {row + 1}")
        three.text(280, y + 20 * row + 5, f"{140 + row} cm")
    three.image((100, 400, 250, 520), photo(4))
    three.image((330, 400, 480, 520), photo(5))
    three.text(105, 528, "Figure 5. Low water")
    three.text(335, 528, "Figure 6. High water")
    three.image((300, 20, 330, 36), photo(9, (30, 16)))
    three.text(300, 765, "3")
    four = Sheet()
    y = four.paragraph(72, 60, ["水位站建在河边，每小时测量一次水位。", "如图7所示，水位在春天最高。"])
    four.image((200, 150, 400, 300), photo(6))
    four.text(250, 308, "图7 一年中的水位")
    four.paragraph(72, 350, ["读数送到山谷，与其他水位站比较。"])
    save(path, [one, two, three, four])
    return [
        (1, (200, 200, 400, 350), "Figure 1. The station in spring."),
        (1, (150, 540, 350, 680), "Fig. 2: Level of the water over a day"),
        (2, left_figure, "Figure 3: The tank and its valve"),
        (2, right_figure, "Figure 4: The panel by the door"),
        (3, (100, 400, 250, 520), "Figure 5. Low water"),
        (3, (330, 400, 480, 520), "Figure 6. High water"),
        (4, (200, 150, 400, 300), "图7 一年中的水位"),
    ]


def paper(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """An exam in English and Chinese: questions with and without pictures, options, a key, and answers behind."""
    one = Sheet()
    one.text(72, 50, "Physics test", 18, bold=True)
    one.text(72, 90, "1. What is the reading of the ammeter shown in the diagram?")
    one.image((100, 110, 260, 210), photo(11))
    for at, option in enumerate(("A. 1.5 A", "B. 2.5 A", "C. 3.5 A", "D. 4.5 A")):
        one.text(90 + 120 * at, 222, option)
    one.text(72, 260, "2. What is the capital of France?")
    for at, option in enumerate(("A. Paris", "B. Rome", "C. Oslo", "D. Bern")):
        one.text(90 + 120 * at, 275, option)
    one.text(72, 310, "3. Look at the graph. At what time is the speed of the car greatest?")
    one.plot((100, 340, 280, 440))
    one.text(72, 470, "4. Which of the following statements about the lens in the picture is true?")
    one.image((100, 490, 260, 590), photo(12))
    one.text(90, 600, "A. It makes the picture larger and turns it around.")
    one.text(90, 615, "B. It makes the picture smaller and leaves it upright.")
    two = Sheet()
    two.text(72, 60, "Answer key", 14, bold=True)
    two.text(72, 90, "1. B  2. A  3. 12 s  4. A")
    two.text(72, 200, "5. 如图所示，物体受到的拉力是多少？")
    two.image((100, 220, 260, 320), photo(13))
    two.text(72, 335, "A. 3 N")
    two.text(200, 335, "B. 6 N")
    two.text(72, 355, "答案：B")
    save(path, [one, two])
    return {
        ("en", 1): {"answer": "2.5 A", "letter": "B", "box": (100, 110, 260, 210)},
        ("en", 3): {"answer": "12 s", "letter": None, "box": (100, 340, 280, 440)},
        ("en", 4): {"answer": "A", "letter": "A", "box": (100, 490, 260, 590)},
        ("zh", 5): {"answer": "6 N", "letter": "B", "box": (100, 220, 260, 320)},
    }

"""Small sets with a response for each item, on which VLMEvalKit and our rules agree, or are known not to.

`tests/golden/vlmevalkit/` holds what the real kit (ms-vlmeval 0.0.20) wrote when an endpoint said these responses:
`test_external_kit.py` runs it again and compares, `test_external.py` reads the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval_files import b64, tsv

from open4ov.evaluate.benchmarks import Type, registry
from open4ov.evaluate.external_sets import KitSet, kit_sets
from open4ov.evaluate.file_suite import FileSuite

COLOURS = {"A": "red", "B": "blue", "C": "orange", "D": "cyan"}
NUMBERS = {"A": "3", "B": "13", "C": "30", "D": "4"}
MCQ: list[tuple[dict[str, str], str, str]] = [
    (COLOURS, "C", "C"),
    (COLOURS, "B", "(B)"),
    (COLOURS, "D", "The answer is D."),
    (COLOURS, "A", "**A**"),
    (COLOURS, "C", "orange"),
    (COLOURS, "B", "Between A and B, I choose B."),
    (COLOURS, "A", "A man is standing there"),
    (COLOURS, "C", "I think it is C"),
    (COLOURS, "C", "C is the colour that I can see in this picture here"),
    (COLOURS, "B", "\\boxed{B}"),
    (COLOURS, "B", "Answer: $B$"),
    (COLOURS, "B", "option b"),
    (COLOURS, "A", "red and blue"),
    (COLOURS, "B", "答案是B"),
    (NUMBERS, "B", "13"),
    (NUMBERS, "D", "4"),
    (COLOURS, "C", "<think>A or B?</think>C"),
    (COLOURS, "A", "D"),
    (COLOURS, "A", ""),
]
YES_NO = [
    ("Yes", "yes"),
    ("No", "No."),
    ("Yes", "Yes, it is."),
    ("No", "It is not."),
    ("Yes", "yes and no"),
    ("Yes", "True"),
    ("No", "no, there is nothing"),
    ("No", "YES"),
    ("Yes", "I am sure that the answer is yes!"),
]
VQA: list[tuple[list[str], str]] = [
    (["cat"], "cat"),
    (["cat", "a cat"], "A CAT"),
    (["cat"], "cat."),
    (["2", "two"], "two"),
    (["3"], "3.0"),
    (["cat"], "dog"),
    (["n/a"], "N/A"),
    (["black cat"], "cat"),
]
ANLS: list[tuple[list[str], str]] = [
    (["12 March 1999"], "12 march 1999"),
    (["12 March 1999"], "12 March 1998"),
    (["Foo Bar"], "Foo   Baz"),
    (["total"], "nothing of the kind"),
]
RELAXED: list[tuple[list[str], str]] = [
    (["100"], "104"),
    (["100"], "106"),
    (["0.1"], "10%"),
    (["Germany"], "germany"),
]
SETS: dict[Type, list[tuple[dict[str, str], str]]] = {
    "mcq": [({**options, "answer": right}, said) for options, right, said in MCQ],
    "yes_no": [({"answer": right}, said) for right, said in YES_NO],
    "vqa": [({"answer": json.dumps(right)}, said) for right, said in VQA],
    "anls": [({"answer": json.dumps(right)}, said) for right, said in ANLS],
    "relaxed": [({"answer": json.dumps(right)}, said) for right, said in RELAXED],
}
"""Type -> (cells of the row, what the model says)"""


def suites(folder: Path) -> list[FileSuite]:
    """The sets as files in a folder."""
    known = registry()
    found: list[FileSuite] = []
    for kind, rows in SETS.items():
        cells = [
            {"index": str(index), "image": b64("red"), "question": f"{kind} question {index}?", **row}
            for index, (row, _) in enumerate(rows, start=1)
        ]
        entry = known.of_type(kind, kind)
        path = tsv(folder / f"{kind}.tsv", cells)
        found.append(FileSuite(kind, entry, path, known.prompt(entry.prompt), max_tokens=64))
    return found


def sets(folder: Path) -> list[KitSet]:
    return kit_sets(suites(folder))[0]


def said(text: str) -> str:
    """What the model says to a prompt, which holds "KIND question N?"."""
    for kind, rows in SETS.items():
        for index, (_, response) in enumerate(rows, start=1):
            if f"{kind} question {index}?" in text:
                return response
    raise AssertionError(text)


def reply(body: dict[str, Any], _: int) -> str:
    """The same as an endpoint."""
    content = body["messages"][-1]["content"]
    return said(content if isinstance(content, str) else "".join(part.get("text", "") for part in content))

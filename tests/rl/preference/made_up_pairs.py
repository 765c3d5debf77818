"""Samples and models that say what they are told to, for the tests of pairs about what a picture does not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from open4ov.engine import Completion, Request
from open4ov.sample import Sample, assistant, user

WORKED = "3 cats and 4 dogs. 3+4=7. \\boxed{7}"


def sample(name: str, task: str, answer: str, image: bool, response: str = "", question: str = "") -> Sample:
    return Sample(
        id=name,
        source="t",
        task=task,
        images=[name] if image else [],
        messages=[user(question or f"{task} {name}?", images=1 if image else 0), assistant(response or answer)],
        answer=answer,
    )


def pool() -> list[Sample]:
    made = [sample(f"c{i}", "colour", "red", True) for i in range(30)]
    made += [sample(f"r{i}", "reasoning", "7", True, WORKED) for i in range(20)]
    made += [
        sample(f"w{i}", "reasoning", "7", True, "Let me look. So the final answer is \\boxed{7}") for i in range(9)
    ]
    made += [sample(f"t{i}", "arithmetic", "5", False, "2+3=5. \\boxed{5}") for i in range(20)]
    return made


class Oracle:
    """An engine that says what it is told to: by the question, and whether there is a picture."""

    def __init__(self, say: Callable[[str, bool], str]) -> None:
        self.say, self.asked = say, list[Request]()

    def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
        self.asked += requests
        texts = [self.say(request.messages[-1].text, shown(request)) for request in requests]
        return [[Completion(text, [1], [0.0], "stop", 0)] for text in texts]


def knows(blind: str = "blue") -> Oracle:
    """Answers rightly what it sees, and what needs no picture; without its picture it says `blind`."""

    def say(question: str, picture: bool) -> str:
        if question.startswith("arithmetic"):
            return "2+3=5. \\boxed{5}" if "boxed" in question else "5"
        return ("red" if question.startswith("colour") else WORKED) if picture else blind

    return Oracle(say)


def picture(sha: str) -> Image.Image:
    return Image.new("RGB", (48, 32), (255, 255, 255) if sha.startswith("new") else (200, 10, 10))


def shown(request: Request) -> bool:
    return any(image.getpixel((0, 0)) == (200, 10, 10) for image in request.images)

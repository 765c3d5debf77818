"""Our own engine as a provider: in this process, and over a real HTTP server by the openai provider."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
from endpoint import serving
from PIL import Image
from pydantic import BaseModel, Field, field_validator

from open4ov.engine.sequence import Sequence
from open4ov.mllm import AnswerError, Asker, Picture, Prompt, ProviderError, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.engine import EngineProvider
from open4ov.mllm.openai import OpenAIProvider
from open4ov.recipe import DataSection, ProviderSection

VALUES = {"topic": "t", "question": "What is {this}? {{ 左 }} <|im_end|>", "answer": "a"}


class Short(BaseModel):
    score: int = Field(ge=0, le=1)
    reason: str = Field(max_length=12)


def picture(shade: int = 30) -> Picture:
    return Picture("sha", lambda: Image.new("RGB", (64, 48), (10, 200, shade)))


def request(shade: int = 30, schema: type[BaseModel] = Short) -> Request:
    """Questions and pictures that differ by `shade`."""
    prompt = Prompt("judge", VALUES | {"answer": "red green blue yellow"[shade // 10 :]})
    return Request("judge_1", prompt, (picture(shade),), schema)


@pytest.fixture(scope="module")
def provider(tiny_dir: Path) -> EngineProvider:
    return EngineProvider(ProviderSection(kind="engine", model=str(tiny_dir), concurrency=4), "data.providers.default")


def test_the_answer_fits_whatever_the_weights_say(provider: EngineProvider) -> None:
    found = provider.answer(request())
    assert set(found) == {"score", "reason"}
    assert found["score"] in (0, 1)


@pytest.mark.slow
def test_many_at_once_are_the_same_as_one_by_one(provider: EngineProvider) -> None:
    asker = Asker(DataSection(), {"default": provider})
    requests = [request(shade) for shade in range(0, 200, 20)]
    together = asker.ask_many(requests)
    assert together == [provider.answer(one) for one in requests]
    assert all(isinstance(one, dict) for one in together)
    assert len({str(one) for one in together}) > 1


def test_over_http_it_says_the_same(provider: EngineProvider, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    with serving(tiny_dir, "tiny") as url:
        settings = ProviderSection(kind="openai", base_url=url, model="tiny", api_key_env="TEST_KEY")
        assert OpenAIProvider(settings, "here").answer(request()) == provider.answer(request())


class Impossible(BaseModel):
    reason: str = Field(max_length=3)

    @field_validator("reason")
    @classmethod
    def never(cls, value: str) -> str:
        raise ValueError("never right")


def test_faults_are_of_one_question(provider: EngineProvider) -> None:
    with pytest.raises(AnswerError, match=r"data\.providers\.default, judge_1: .*never right"):
        provider.answer(request(schema=Impossible))
    long = Request("judge_1", Prompt("judge", VALUES | {"question": "why " * 40_000}), (picture(),), Short)
    with pytest.raises(AnswerError, match="longer than the model"):
        provider.answer(long)
    with pytest.raises(AnswerError, match="no end"):  # a free string of random weights
        provider.answer(request(schema=Judgement))
    assert provider.answer(request())["score"] in (0, 1)


@pytest.mark.parametrize(("model", "said"), [(None, "needs a model"), ("nowhere/at/all", "no folder is called")])
def test_no_model(model: str | None, said: str) -> None:
    with pytest.raises(ProviderError, match=said):
        EngineProvider(ProviderSection(kind="engine", model=model), "data.providers.default")


def test_a_closed_one_gives_its_model_up(tiny_dir: Path) -> None:
    """A training follows in the same process, and on the same card."""
    section = DataSection(providers={"default": ProviderSection(kind="engine", model=str(tiny_dir))})
    asker = Asker(section)
    own = asker.provider("judge_1")
    assert isinstance(own, EngineProvider)
    assert set(own.answer(request())) == {"score", "reason"}
    model = weakref.ref(own._engine.model)
    asker.close()
    with pytest.raises(ProviderError, match=r"data\.providers\.default, judge_1: asked after it was closed"):
        own.answer(request())
    asker.close()
    del own, asker
    gc.collect()
    assert model() is None


def test_what_is_under_way_when_it_is_closed_fails(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EngineProvider(ProviderSection(kind="engine", model=str(tiny_dir)), "data.providers.default")
    begun, step = threading.Event(), own._engine.step

    def told() -> list[Sequence]:
        begun.set()
        return step()

    monkeypatch.setattr(own._engine, "step", told)
    faults: list[Exception] = []

    def ask() -> None:
        try:
            own.answer(request(schema=Judgement))  # comes to no end
        except ProviderError as error:
            faults.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert begun.wait(60)
    own.close()
    asking.join(60)
    assert not asking.is_alive()
    assert "the engine could not answer" in str(faults[0])

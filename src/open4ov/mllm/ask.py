"""One way to put a question to a multimodal model: `Asker.ask(role, prompt, images, schema) -> dict`.

The recipe names providers and says which role each of them plays (`data.providers`, `data.roles`); the stages of data
construction name roles only. A prompt keeps its values beside its text: an endpoint reads the text, the offline catalog
reads the values, and both see the same picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from open4ov.errors import UserError
from open4ov.mllm.asked import (
    Answered,
    AnswerError,
    Picture,
    Prompt,
    Provider,
    ProviderError,
    Request,
    png_size,
    version,
)
from open4ov.mllm.crew import Crew
from open4ov.mllm.took import Account, Took
from open4ov.recipe import DataSection
from open4ov.sample import Step

if TYPE_CHECKING:
    from open4ov.mllm.desk import Desk
    from open4ov.mllm.embedders import Embedder

__all__ = [
    "AnswerError",
    "Answered",
    "Asker",
    "Picture",
    "Prompt",
    "Provider",
    "ProviderError",
    "Request",
    "png_size",
    "version",
]

JUDGES = ("judge_1", "judge_2", "judge_3")
BESIDE = ("labels", "documents", "preference", "rl_pool", "evaluation", "versus")
"""Asked beside the stage `data`: by `open4ov labels review`, `open4ov data documents`, stage 3 of SFT, RL's pool,
`open4ov eval` and `open4ov versus`"""
PASSING = frozenset(
    ["rate_limited", "overloaded", "timeout", "server_error", "closed", "empty", "html", "not_json", "truncated"]
)
"""Kinds of faults that another day may not have; others are the question's or the model's own, and would come again"""
GRACE = 0.7
"""Seconds that answers which have come get to be kept, when a run is stopped"""
ROLES = ("topics", "rank", "density", "synthesize", *JUDGES, "verify")


class Asker:
    """The providers of a recipe behind one call. Raises `UserError` for a role or provider that does not exist.

    `place`: the folder of a run, where answers of endpoints and what they cost are kept; without it they are forgotten.
    `desk`: where to ask for both instead. `providers` and `embedder` take the place of the recipe's. `account`: what
    the answers took so far.
    """

    def __init__(
        self,
        section: DataSection,
        providers: dict[str, Provider] | None = None,
        place: Path | None = None,
        embedder: Embedder | None = None,
        desk: Desk | None = None,
    ) -> None:
        self.desk = desk
        asked = providers is None and any(one.kind == "openai" for one in section.providers.values())
        if desk is None and (asked or (embedder is None and section.embedder.endpoint is not None)):
            from open4ov.mllm.desk import Desk

            self.desk = Desk.open(section, place)
        self._section = section
        if embedder is not None:
            self.embedder = embedder
        self._providers = self._build() if providers is None else providers
        self._own = providers is None
        self.place, self.account = place, Account()
        read = {name for name, one in section.providers.items() if one.kind in ("openai", "engine")}
        self._prompted = read if providers is None else set[str]()
        for role, name in section.roles.items():
            if role != "default" and role not in (*ROLES, *BESIDE):
                raise UserError(f"data.roles: no role {role!r}; the roles are {', '.join((*ROLES, *BESIDE))}")
            if name not in self._providers:
                raise UserError(f"data.roles.{role}: no provider {name!r} under data.providers")
        self._roles = dict(section.roles)

    def _build(self) -> dict[str, Provider]:
        # Imported here: the catalog loads its symbol library, the client its transport, only where a recipe asks for
        # them.
        providers: dict[str, Provider] = {}
        for name, settings in self._section.providers.items():
            where = f"data.providers.{name}"
            if settings.kind == "openai":
                from open4ov.mllm.openai import OpenAIProvider

                providers[name] = OpenAIProvider(settings, where, self.desk)
            elif settings.kind == "engine":
                from open4ov.mllm.engine import EngineProvider

                providers[name] = EngineProvider(settings, where)
            elif settings.kind == "embedder":
                from open4ov.mllm.embedder_rank import EmbedderProvider

                providers[name] = EmbedderProvider(settings, where, self.embedder, self._section.embedder)
            else:
                if settings.base_url or settings.model:
                    raise UserError(f"{where}: base_url and model have no effect with kind: catalog; remove them")
                from open4ov.mllm.catalog import CatalogProvider

                providers[name] = CatalogProvider()
        return providers

    @cached_property
    def embedder(self) -> Embedder:
        """The recipe's embedder; built when it is first asked for. Raises `UserError`."""
        from open4ov.mllm.embedders import Remembered, open_embedder

        found = open_embedder(self._section.embedder, self.desk)
        ranks = any(one.kind == "embedder" for one in self._section.providers.values())
        return Remembered(found) if ranks else found

    def provider(self, role: str) -> Provider:
        name = self._name(role)
        if name not in self._providers:
            raise UserError(f"data.roles: no provider for {role!r}: name one, or add data.providers.default")
        return self._providers[name]

    def _name(self, role: str) -> str:
        return self._roles.get(role) or self._roles.get("default") or "default"

    def identity(self, role: str) -> str:
        """Who plays the role, as votes record it: `judge_1:rules`, `judge_1:gpt-4o`."""
        return f"{role}:{self.provider(role).identity(role)}"

    @property
    def offline(self) -> bool:
        """Whether the catalog alone answers, and nothing that is asked leaves a trace in this process."""
        providers = self._providers.values()
        return self.desk is None and all(getattr(provider, "offline", False) for provider in providers)

    def require_model(self, role: str, otherwise: str) -> None:
        """Raises `UserError` when the catalog would play a role that needs a model; `otherwise`: what to do instead."""
        if getattr(self.provider(role), "offline", False):
            raise UserError(
                f"data.roles.{role}: provider '{self._name(role)}' is the catalog, which answers from the annotations "
                f"of the shipped corpora and cannot play this role. Name one of kind openai (an endpoint) or engine (a "
                f"model in this process) under data.providers and data.roles.{role}, or {otherwise}"
            )

    def step(self, role: str, template: str, answer: object = None, note: str | None = None) -> Step | None:
        """For the lineage of a sample: who was asked with which prompt, and what the answer (or `AnswerError`) took,
        where that is known. None where no model reads the prompt."""
        name = self._name(role)
        if name not in self._prompted:
            return None
        by, took = self.provider(role).identity(role), getattr(answer, "took", None)
        known: dict[str, Any] = {}
        if isinstance(took, Took):
            known = {"input": took.input, "output": took.output, "cost": took.money, "kept": took.kept}
            known["estimated"] = took.estimated or None
            note = "an equal question stands at an earlier sample, which bears the answer" if took.again else note
        return Step(stage=_stage(role, template), by=by, provider=name, prompt=version(template), note=note, **known)

    def close(self) -> None:
        """Lets go of what the recipe's providers hold: models that answer in this process. Nothing is asked after."""
        for provider in self._providers.values() if self._own else ():
            if (close := getattr(provider, "close", None)) is not None:
                close()

    def ask(self, role: str, prompt: Prompt, images: Sequence[Picture], schema: type[BaseModel]) -> dict[str, Any]:
        """The answer, checked against `schema`. Raises `AnswerError` or `ProviderError`."""
        (answer,) = self.ask_many([Request(role, prompt, images, schema)])
        if isinstance(answer, AnswerError):
            raise answer
        return answer

    def _ask(self, request: Request) -> dict[str, Any]:
        answer = self.provider(request.role).answer(request)
        if isinstance(answer, Answered):  # has been checked, to be sent back or kept
            return answer
        try:
            return request.schema.model_validate(answer).model_dump()
        except ValidationError as error:
            name = self.identity(request.role)
            raise AnswerError(f"{name}: the answer does not fit: {_first(error)}", "schema") from None

    def _noted(self, request: Request, answer: dict[str, Any] | AnswerError) -> dict[str, Any] | AnswerError:
        """Puts down what the answer took; in the order of the requests, so that of equal ones the first bears it."""
        stage = _stage(request.role, request.prompt.template)
        if isinstance(answer, Answered | AnswerError) and answer.took is not None:
            answer.took = self.account.add(stage, answer.took)
        if isinstance(answer, AnswerError):
            own = answer.kind in PASSING and not answer.transport  # a model that writes prose would do so again
            self.account.miss(stage, f"answer {answer.kind}" if own else answer.kind)
        return answer

    def report(self) -> dict[str, Any]:
        """What was asked of endpoints, by role: questions, answers kept from before, requests, retries, faults by kind,
        and what it cost. Empty when no endpoint is among the providers."""
        return self.desk.report() if self.desk else {}

    def ask_many(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[dict[str, Any] | AnswerError]:
        """Answers in the order of the requests; a question without a usable answer yields its `AnswerError`."""

        def one(request: Request) -> dict[str, Any] | AnswerError:
            try:
                return self._ask(request)
            except AnswerError as error:
                return error

        crews: dict[int, Crew[Request, dict[str, Any] | AnswerError]] = {}
        answers: list[dict[str, Any] | AnswerError] = []
        try:
            jobs: list[Callable[[], dict[str, Any] | AnswerError]] = []
            for request in requests:
                provider = self.provider(request.role)
                if provider.concurrency == 1:
                    jobs.append(partial(one, request))
                    continue
                if id(provider) not in crews:  # one for each, so that none sees more at once than its recipe allows
                    crews[id(provider)] = Crew(one, getattr(provider, "threads", provider.concurrency))
                jobs.append(crews[id(provider)].submit(request))
            for request, job in zip(requests, jobs, strict=True):
                answers.append(self._noted(request, job()))
                if progress:
                    progress(len(answers), len(requests))
        except Exception:
            for crew in crews.values():
                crew.end()
            raise
        except BaseException:  # Ctrl-C: whoever waits for a reply is left behind, whoever has one keeps it
            if self.desk:
                self.desk.stop()
            end = time.monotonic() + GRACE
            for crew in crews.values():
                crew.end(max(0.0, end - time.monotonic()))
            if self.desk:
                self.desk.budget.abandon()
            raise
        for crew in crews.values():
            crew.end()
        return answers


def _stage(role: str, template: str) -> str:
    """What a step is called: the role, or the prompt where one role is asked with several."""
    return template if role in BESIDE else role


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc']) or 'answer'}: {detail['msg']}"

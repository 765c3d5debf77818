"""Who answers the prompts of data construction: one interface, an endpoint or the offline catalog behind it."""

from open4ov.mllm.ask import JUDGES, ROLES, AnswerError, Asker, Picture, Prompt, Provider, ProviderError, Request

__all__ = ["JUDGES", "ROLES", "AnswerError", "Asker", "Picture", "Prompt", "Provider", "ProviderError", "Request"]

"""What the server says of its own routes, as OpenAPI: those that read their bodies themselves are described here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from open4ov.engine.serving.chat import ChatRequest
from open4ov.engine.sessions import events as session_events

REFERENCE = "#/components/schemas/{model}"
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
BODIES: dict[str, tuple[str, type[BaseModel]]] = {
    "/v1/chat/completions": ("ChatRequest", ChatRequest),
    "/v1/sessions": ("SessionRequest", session_events.Open),
    "/v1/sessions/{number}/images": ("SessionImage", session_events.Image),
    "/v1/sessions/{number}/text": ("SessionText", session_events.Text),
    "/v1/sessions/{number}/commit": ("SessionCommit", session_events.Commit),
}
"""Routes that read a body, its name there and its form"""
FAULTS = {
    "400": "at fault",
    "401": "no key",
    "403": "a page of elsewhere",
    "404": "no such model or session",
    "408": "the body came too slowly",
    "409": "an answer is under way",
    "410": "the session is closed",
    "413": "too large",
    "429": "too many requests of this key",
    "500": "a fault of the server",
    "503": "too many requests, or the server is ending",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application that has all its routes."""
    document: dict[str, Any] = app.openapi()
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for path, (name, model) in BODIES.items():
        asked = model.model_json_schema(ref_template=REFERENCE)
        schemas.update(asked.pop("$defs", {}))
        schemas[name] = asked
        body = {"application/json": {"schema": {"$ref": REFERENCE.format(model=name)}}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": body}
    schemas["Error"] = ERROR
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    wrong = {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}}
    for path, ways in document["paths"].items():
        for way in ways.values():
            for status, text in FAULTS.items():
                way["responses"].setdefault(status, {"description": text, "content": wrong})
            if path == "/health":
                way["security"] = []
    return document

"""What tests of the doors send, and how they read what comes back."""

from __future__ import annotations

import json
from typing import Any

import httpx

CHAT = "/v1/chat/completions"


def ask(text: str, **fields: Any) -> dict[str, Any]:
    """A request to the demo provider."""
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}


def answer_of(response: httpx.Response) -> str:
    """The text of a whole answer."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def data_lines(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a whole stream, which must end with [DONE]."""
    assert response.status_code == 200, response.text
    *chunks, end = data_lines(response.text)
    assert end == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def streamed_text(response: httpx.Response) -> str:
    deltas = [choice["delta"] for chunk in chunks_of(response) for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape and nothing else."""
    assert response.status_code >= 400, response.text
    assert response.headers["content-type"].startswith("application/json"), response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])

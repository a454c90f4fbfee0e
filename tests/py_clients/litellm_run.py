"""litellm as a client of the hub: whole, streamed, with tools and with JSON. Run with the hub's address and key."""

from __future__ import annotations

import json
import os
from typing import Any

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
POINT = {
    "type": "json_schema",
    "json_schema": {
        "name": "point",
        "strict": True,
        "schema": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}


def ask(text: str, **options: Any) -> Any:
    where = {"api_base": os.environ["HUB_URL"], "api_key": os.environ["HUB_KEY"]}
    return litellm.completion(
        model="openai/claude", messages=[{"role": "user", "content": text}], max_retries=0, **where, **options
    )


def script(**answer: Any) -> str:
    return f"[[{json.dumps(answer)}]]"


def whole() -> str:
    return str(ask("[[chunks=2]] hello").choices[0].message.content)


def streamed() -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask("[[chunks=3]] hello", stream=True))


def tools() -> list[Any]:
    answer = ask(script(calls=[{"name": "get_weather", "input": {"city": "Bern"}}]), tools=[TOOL])
    return [[it.function.name, json.loads(it.function.arguments)] for it in answer.choices[0].message.tool_calls]


def structured() -> Any:
    return json.loads(ask(script(structured={"x": 1}), response_format=POINT).choices[0].message.content)


def refused() -> str:
    try:
        litellm.completion(
            model="openai/nobody/has-this",
            messages=[{"role": "user", "content": "x"}],
            api_base=os.environ["HUB_URL"],
            api_key=os.environ["HUB_KEY"],
            max_retries=0,
        )
    except litellm.NotFoundError as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    print(json.dumps({run.__name__: run() for run in (whole, streamed, tools, structured, refused)}))

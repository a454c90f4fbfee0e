"""ChatOpenAI of langchain-openai: tools, structured output both ways, streaming. Run with the hub's address and key."""

from __future__ import annotations

import json
import os
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Point(BaseModel):
    """A point."""

    x: int
    label: str | None


@tool
def get_weather(city: str, unit: str | None = None) -> str:
    """Tells the weather."""
    return f"{city}: 21 degrees"


def script(**answer: Any) -> str:
    return f"[[{json.dumps(answer)}]]"


def model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="claude", base_url=os.environ["HUB_URL"], api_key=os.environ["HUB_KEY"], max_retries=0, **options
    )


def tools() -> dict[str, Any]:
    wish = script(calls=[{"name": "get_weather", "input": {"city": "Bern", "unit": None}}], text="It is warm.")
    agent = model().bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(f"How is it? {wish}")]
    first = agent.invoke(messages)
    messages.append(first)
    for call in first.tool_calls:
        messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    second = agent.invoke(messages)
    return {"calls": [[it["name"], it["args"]] for it in first.tool_calls], "answer": second.content}


def streamed_tools() -> dict[str, Any]:
    wish = script(calls=[{"name": "get_weather", "input": {"city": city}} for city in ("Bern", "Rome")])
    whole: Any = None
    agent = model(stream_usage=True).bind_tools([get_weather])
    for chunk in agent.stream(f"Both? {wish}"):
        whole = chunk if whole is None else whole + chunk
    return {"calls": [it["args"]["city"] for it in whole.tool_calls], "tokens": whole.usage_metadata["input_tokens"]}


def structured() -> dict[str, Any]:
    by_schema = model().with_structured_output(Point, method="json_schema")
    found: Any = by_schema.invoke(script(structured={"x": 1, "label": None}))
    by_call = model().with_structured_output(Point, method="function_calling")
    called: Any = by_call.invoke(script(calls=[{"name": "Point", "input": {"x": 2, "label": "b"}}]))
    return {"json_schema": found.model_dump(), "function_calling": called.model_dump()}


def streamed() -> dict[str, Any]:
    pieces = [chunk.content for chunk in model().stream("[[chunks=4]] one two three four")]
    return {"pieces": sum(bool(it) for it in pieces), "text": "".join(map(str, pieces))}


def responses() -> dict[str, Any]:
    answer: Any = ChatOpenAI(
        model="claude",
        base_url=os.environ["HUB_URL"],
        api_key=os.environ["HUB_KEY"],
        use_responses_api=True,
        max_retries=0,
    ).invoke("[[chunks=2]] by the other way")
    return {"text": answer.text}


RUNS = (tools, streamed_tools, structured, streamed, responses)

if __name__ == "__main__":
    print(json.dumps({run.__name__: run() for run in RUNS}))

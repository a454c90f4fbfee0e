"""What the Responses API answers, in OpenAI's shapes with `provider` beside them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Status = Literal["completed", "incomplete", "failed", "in_progress", "queued", "cancelled"]
ItemStatus = Literal["completed", "incomplete", "in_progress"]


class SummaryText(BaseModel):
    type: Literal["summary_text"]
    text: str


class ReasoningItem(BaseModel):
    type: Literal["reasoning"]
    id: str
    summary: list[SummaryText]


class OutputText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputRefusal(BaseModel):
    type: Literal["refusal"]
    refusal: str


class MessageItem(BaseModel):
    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText | OutputRefusal]


class FunctionCallItem(BaseModel):
    """A call the caller is to carry out; `arguments` is a JSON object that fits the function's schema, as a text."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class InputDetails(BaseModel):
    cached_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Token counts as the provider's program reported them; `cost_usd` where it did."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int
    cost_usd: float | None = None


class ResponseError(BaseModel):
    code: str
    message: str


class Incomplete(BaseModel):
    reason: Literal["max_output_tokens", "content_filter"]


class ConversationRef(BaseModel):
    id: str


class ResponseBody(BaseModel):
    """`conversation` is the session the answer is kept in, null if it is kept in none."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: Incomplete | None
    model: str
    provider: str
    output: list[ReasoningItem | MessageItem | FunctionCallItem]
    usage: ResponseUsage | None
    instructions: str | None
    previous_response_id: str | None
    conversation: ConversationRef | None
    store: bool
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    parallel_tool_calls: bool
    tool_choice: Any
    tools: list[Any]
    text: Any
    reasoning: Any
    truncation: Literal["disabled"]
    metadata: dict[str, Any]
    user: str | None


class ResponseDeleted(BaseModel):
    id: str
    object: Literal["response"]
    deleted: bool


class InputItemList(BaseModel):
    """What was asked, as input items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool

"""The shapes of the REST API, as OpenAI defined them, and what is beside them.

Plain pydantic models: ninja's Schema would drop the fields it does not know, and those have to be named or refused.
Requests are read strictly, as the OpenAPI document says: "yes" is no boolean and "5" no number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from chat.numbers import Whole
from chat.other_shapes import in_chat_shape
from chat.tool_schemas import MAX_TOOLS, Effort, ResponseFormat, ToolCallBody, ToolChoice, ToolDefinition
from providers.events import FinishReason

# Far beyond any real conversation; validating this many takes about 0.1 s, in which nobody else is served.
MAX_PARTS = 10_000
MAX_FIELDS = 200
MAX_FALLBACKS = 16
MAX_NAME_CHARS = 200
MAX_CALLS = 128


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value != "auto"


def _read_fallback(value: Any) -> Any:
    """One complaint instead of one for each member of the union."""
    is_list = isinstance(value, list) and 0 < len(value) <= MAX_FALLBACKS
    if value is None or isinstance(value, bool) or (is_list and all(_is_name(it) for it in value)):
        return value
    raise ValueError(f"it is true, false or a list of 1 to {MAX_FALLBACKS} names of providers or models")


Fallback = Annotated[
    bool | list[str] | None,
    BeforeValidator(_read_fallback),
    Field(
        description="Who may answer if the provider that was named fails before its first word: true for the hub's "
        "chain, or names of providers or models in their order. Absent: as the key is set.",
    ),
]


class ImageUrl(BaseModel):
    """`url` is a data URL; an http address only where the hub's owner allows it."""

    model_config = ConfigDict(extra="allow", strict=True)
    url: str
    detail: str | None = None


class FileContent(BaseModel):
    """`file_data` is a data URL."""

    model_config = ConfigDict(extra="allow", strict=True)
    file_data: str | None = None
    filename: str | None = None


class ContentPart(BaseModel):
    """A text, an image (`image_url`) or a PDF (`file`)."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: FileContent | None = None


class ChatMessage(BaseModel):
    """One message. Assistant content may be null or empty, as agents send it beside `tool_calls`."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tool_calls: Annotated[list[ToolCallBody], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    include_usage: bool = False


class ChatCompletionRequest(BaseModel):
    """OpenAI's request with `provider` beside it. Unknown fields are accepted and named in X-Hub-Ignored."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra={"additionalProperties": True})
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000, fail_fast=True)]
    model: Annotated[str, Field(max_length=200)] | None = None
    provider: Annotated[str, Field(max_length=50)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    user: str | None = Field(default=None, description="`session:ID` names the session, as X-Session-ID does.")
    metadata: dict[str, Any] | None = Field(
        default=None, description="Its `session_id` names the session, as X-Session-ID does."
    )
    fallback: Fallback = None

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, data: Any) -> Any:
        """Refuse by count before anything is read piece by piece: that would hold up every other request."""
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise ValueError(f"a request has at most {MAX_FIELDS} fields")
        messages = data.get("messages")
        listed = messages if isinstance(messages, list) else []
        contents = (it.get("content") for it in listed if isinstance(it, dict))
        if sum(len(content) for content in contents if isinstance(content, list)) > MAX_PARTS:
            raise ValueError(f"the messages of a request have at most {MAX_PARTS} content parts together")
        return in_chat_shape(data)


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class UsageBody(BaseModel):
    """Token counts as the provider's program reported them; `cost_usd` where it did."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    cost_usd: float | None = None


class AnswerFunction(BaseModel):
    name: str
    arguments: str


class AnswerToolCall(BaseModel):
    """A call the caller is to carry out; `arguments` is a JSON object that fits the function's schema, as a text."""

    id: str
    type: Literal["function"]
    function: AnswerFunction


class AssistantMessage(BaseModel):
    """`content` is null beside calls without a word, and beside a refusal."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    tool_calls: list[AnswerToolCall] | None = None
    reasoning_content: str | None = None


class Choice(BaseModel):
    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"]
    logprobs: Any = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    provider: str
    choices: list[Choice]
    usage: UsageBody | None


class ModelBody(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelBody]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class SessionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class SessionFile(BaseModel):
    """An image or a document of a message, without its content; `bytes` is its size."""

    type: str
    name: str | None
    bytes: int


class SessionMessage(BaseModel):
    """One message. `incomplete`: its turn was cancelled in mid-answer; it is shown, but no model sees it again.
    `finish_reason` tells why an answer of a provider ended."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: list[AnswerToolCall] | None = None
    tool_call_id: str | None = None
    files: list[SessionFile] | None = None
    created_at: str | None = None
    provider: str | None = None
    model: str | None = None
    usage: SessionUsage | None = None
    finish_reason: FinishReason | None = None
    status: Literal["complete", "incomplete"] = "complete"


class SessionListed(BaseModel):
    """A session without its messages. Times are ISO 8601 in UTC."""

    session_id: str
    title: str
    provider: str | None
    model: str | None
    created_at: str
    updated_at: str
    expires_at: str


class SessionBody(SessionListed):
    messages: list[SessionMessage]


class SessionList(BaseModel):
    """`next` is the `after` of the following page, null on the last."""

    object: Literal["list"]
    data: list[SessionListed]
    has_more: bool
    next: str | None


class SessionDeleted(BaseModel):
    success: bool
    message: str


ERRORS = dict.fromkeys((400, 401, 403, 404, 405, 409, 413, 429, 500, 502, 503, 504), ErrorBody)

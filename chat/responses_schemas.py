"""What the Responses API takes, in OpenAI's shapes, read as strictly as chat requests are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from chat.numbers import Whole
from chat.schemas import MAX_FIELDS, MAX_PARTS, Fallback
from chat.sessions import SESSION_ID
from chat.tool_schemas import MAX_TOOLS, Effort, FunctionName

# Of items and tools: what is read. Others are refused by their names, whatever else they hold.
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
TOOL_TYPES = ("function",)


def _one_of(*names: str) -> Any:
    """Told in the document, and left to the reader: it knows what to say to someone who asks for another."""
    return Field(json_schema_extra={"enum": [*names]})


def _type_alone(data: Any, known: tuple[str, ...]) -> Any:
    """Of what is refused for its type nothing else is read: nobody knows its shape."""
    kind = data.get("type") if isinstance(data, dict) else None
    return {"type": kind} if isinstance(kind, str) and kind not in known else data


class InputPart(BaseModel):
    """A text (`input_text`, `output_text`), a `refusal`, an image (`input_image`) or a PDF (`input_file`), both as
    data URLs."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    annotations: Any = None
    logprobs: Any = None


Content = str | Annotated[list[InputPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class InputItem(BaseModel):
    """A message (the type may be left out), a call of a function, what a call brought, or thoughts, which are passed
    over."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Annotated[str, _one_of(*ITEM_TYPES)] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    phase: str | None = None
    content: Content | None = None
    call_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    name: FunctionName | None = None
    arguments: str | None = None
    output: Content | None = None
    summary: Any = None
    encrypted_content: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, data: Any) -> Any:
        return _type_alone(data, ITEM_TYPES)


class FunctionTool(BaseModel):
    """`parameters` is a JSON Schema; absent, the function takes none. Arguments are checked against it in any case."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Annotated[str, _one_of(*TOOL_TYPES)]
    name: FunctionName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, data: Any) -> Any:
        return _type_alone(data, TOOL_TYPES)


class NamedTool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    type: Annotated[str, _one_of(*TOOL_TYPES)]
    name: FunctionName | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, data: Any) -> Any:
        return _type_alone(data, TOOL_TYPES)


class TextFormat(BaseModel):
    """In words, as a JSON object, or as JSON that fits a schema."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(BaseModel):
    """Summaries of thoughts come where the provider tells its thoughts, asked for or not."""

    model_config = ConfigDict(extra="allow", strict=True)
    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseStreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    include_obfuscation: bool | None = None


def _choice(value: Any) -> Any:
    """One complaint instead of one for each member of the union."""
    if value in ("auto", "none", "required") or isinstance(value, dict):
        return value
    raise ValueError("it is auto, none, required, or a function as {type: function, name: ...}")


def _named(value: Any) -> Any:
    """Likewise."""
    named = value.get("id") if isinstance(value, dict) else value
    if isinstance(named, str) and SESSION_ID.fullmatch(named):
        return value
    raise ValueError(f"it is the id of a session, or {{id: ...}}; an id is {SESSION_ID.pattern}")


ToolChoice = Annotated[Literal["auto", "none", "required"] | NamedTool, BeforeValidator(_choice)]
SessionName = Annotated[str, Field(pattern=f"^{SESSION_ID.pattern}$")]


class ConversationBody(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    id: SessionName


Conversation = Annotated[SessionName | ConversationBody, BeforeValidator(_named)]


class ResponseRequest(BaseModel):
    """OpenAI's request with `provider` beside it. Unknown fields are accepted and named in X-Hub-Ignored."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra={"additionalProperties": True})
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    model: Annotated[str, Field(max_length=200)] | None = None
    provider: Annotated[str, Field(max_length=50)] | None = None
    instructions: str | None = Field(default=None, description="Absent: those of the session, if it has any.")
    previous_response_id: Annotated[str, Field(max_length=300)] | None = Field(
        default=None,
        description="The answer to go on from. Where its conversation has gone on since, a new one branches off.",
    )
    conversation: Conversation | None = Field(default=None, description="Names the session, as X-Session-ID does.")
    store: bool | None = Field(default=None, description="false: nothing of the turn is kept.")
    background: bool | None = Field(default=None, description="true: answered at once; GET fetches what comes of it.")
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
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
        if sum(map(len, _contents(data.get("input")))) > MAX_PARTS:
            raise ValueError(f"the input of a request has at most {MAX_PARTS} content parts together")
        return data


def _contents(listed: Any) -> Iterator[list[Any]]:
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict):
            yield from (it for it in (item.get("content"), item.get("output")) if isinstance(it, list))

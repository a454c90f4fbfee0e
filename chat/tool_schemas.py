"""Function calling as OpenAI's clients write it in chat requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern=FUNCTION_NAME)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class FunctionDefinition(BaseModel):
    """`parameters` is a JSON Schema; absent, the function takes none. Arguments are checked against it in any case."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: FunctionDefinition

    @model_validator(mode="before")
    @classmethod
    def _type_first(cls, data: Any) -> Any:
        """Of another kind of tool nothing else is to be complained of."""
        if isinstance(data, dict) and data.get("type", "function") != "function":
            raise ValueError(f"only tools of the type function are supported here, not {str(data['type'])[:40]!r}")
        return data


class FunctionChoice(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    name: FunctionName


class NamedToolChoice(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: FunctionChoice


def _read_choice(value: Any) -> Any:
    """One complaint instead of one for each member of the union."""
    if value in ("auto", "none", "required") or isinstance(value, dict):
        return value
    raise ValueError("it is auto, none, required, or the name of a function in OpenAI's shape")


ToolChoice = Annotated[Literal["auto", "none", "required"] | NamedToolChoice, BeforeValidator(_read_choice)]


class FunctionCall(BaseModel):
    """`arguments` is a JSON object, as a text."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: FunctionName
    arguments: str | None = None


class ToolCallBody(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    id: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["function"] | None = None
    function: FunctionCall


class JsonSchemaFormat(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """How the answer is to be written: in words, as a JSON object, or as JSON that fits a schema."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

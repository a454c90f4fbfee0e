"""What the tools take and give. Flat where it can be, and without nulls: some clients' schema readers take neither
`$ref` nor unions."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

TurnStatus = Literal["complete", "running", "failed", "cancelled"]


def _not_null(value: object) -> object:
    return "" if value is None else value


# Models fill in null for what they leave out, whatever the schema says.
Text = Annotated[str, BeforeValidator(_not_null)]


class ChatResult(BaseModel):
    """One answer. `running`: the answer so far, the rest is to be had with get_session."""

    session_id: str = Field(description="Pass it on to continue this conversation; empty if none could be kept.")
    status: TurnStatus
    answer: str
    provider: str = Field(description="Who answered.")
    model: str = Field(description="The model that really answered.")
    finish_reason: str = Field(description="stop, length or content_filter; empty while it runs.")
    is_cut: bool = Field(description="The answer is longer than what is shown; the session resource holds all of it.")
    note: str = Field(description="What to do next, empty if the answer is all there is.")


class ProviderInfo(BaseModel):
    name: str
    status: Literal["available", "unavailable"]
    state: str
    models: list[str] = Field(description="The default first.")
    why: str = Field(description="What is wrong, empty if nothing is.")
    mend: str = Field(description="What the hub's owner can do about it.")


class ProvidersResult(BaseModel):
    providers: list[ProviderInfo]


class MessageInfo(BaseModel):
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    provider: str
    model: str
    status: Literal["complete", "incomplete"]


class SessionResult(BaseModel):
    """A conversation; of a long one the last messages. `answer` is what came last, or has come so far."""

    session_id: str
    status: TurnStatus
    answer: str = ""
    error: str = Field(default="", description="Why the last turn failed, empty if it did not.")
    title: str = ""
    provider: str = ""
    model: str = ""
    created_at: str = Field(default="", description="ISO 8601 in UTC; empty until the first answer is complete.")
    updated_at: str = ""
    expires_at: str = ""
    message_count: int = 0
    messages: list[MessageInfo] = Field(default=[], description="The last ones.")
    is_cut: bool = Field(
        default=False, description="There is more than what is shown; the session resource holds all of it."
    )


def without_refs(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema with its definitions written out where they are used; none of them may hold itself."""
    whole = copy.deepcopy(schema)
    definitions = whole.pop("$defs", {})

    def written_out(part: Any) -> Any:
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).removeprefix("#/$defs/")
            return written_out(definitions[name]) if name else {key: written_out(it) for key, it in part.items()}
        return [written_out(it) for it in part] if isinstance(part, list) else part

    out: dict[str, Any] = written_out(whole)
    return out

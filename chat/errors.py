"""What a caller can do wrong at the hub's doors. `code` is stable; `param` names the field of the request."""

from __future__ import annotations


class ChatError(Exception):
    code = "chat_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class KeyMissing(ChatError):
    code = "missing_api_key"


class KeyRefused(ChatError):
    code = "invalid_api_key"


class BadRequest(ChatError):
    """The request has to change: a value is wrong, or asks for what the hub can't do."""

    code = "invalid_value"


class Unsupported(BadRequest):
    """A parameter that would change the answer and can't be honoured."""

    code = "unsupported_parameter"

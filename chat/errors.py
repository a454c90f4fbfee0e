"""What a caller can do wrong at the hub's doors, and what the hub itself may lack.

`code` is stable; `param` names the field of the request; `retry_after_s` is in seconds where it is known.
"""

from __future__ import annotations

from chat.standing import UNKNOWN, Standing


class ChatError(Exception):
    code = "chat_error"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


# Who asks.


class KeyMissing(ChatError):
    code = "missing_api_key"


class KeyRefused(ChatError):
    code = "invalid_api_key"


class TooManyFailures(ChatError):
    """An address has sent too many wrong keys."""

    code = "too_many_failed_attempts"
    retryable = True


class NotAllowed(ChatError):
    """The key is good, but not for this."""

    code = "not_allowed"


class ScopeMissing(NotAllowed):
    code = "insufficient_scope"


class ProviderNotAllowed(NotAllowed):
    code = "provider_not_allowed"


class ModelNotAllowed(NotAllowed):
    code = "model_not_allowed"


# How much.


class LimitReached(ChatError):
    """A limit of the key; it ends by itself after `retry_after_s`."""

    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None, standing: Standing = UNKNOWN) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.standing = standing


class BudgetSpent(LimitReached):
    code = "budget_exceeded"


# The request has to change.


class BadRequest(ChatError):
    """The request has to change: a value is wrong, or asks for what the hub can't do."""

    code = "invalid_value"


class Unsupported(BadRequest):
    """A parameter that would change the answer and can't be honoured."""

    code = "unsupported_parameter"


class IdempotencyKeyReused(BadRequest):
    """An Idempotency-Key came again with another request."""

    code = "idempotency_key_reused"


# Providers, as an administrator sees them.


class ProviderNotFound(ChatError):
    code = "provider_not_found"


class ProviderConflict(ChatError):
    """There is one of that name, or the settings want it to be there."""

    code = "provider_conflict"


# Conversations.


class SessionNotFound(ChatError):
    """Unknown, expired, deleted, or another owner's."""

    code = "session_not_found"


class ResponseNotFound(SessionNotFound):
    """The answer is in no session of the owner's: never was, or is no more."""

    code = "response_not_found"


class PreviousResponseNotFound(BadRequest):
    """The answer to go on from is in no session of the owner's, or came to no end."""

    code = "previous_response_not_found"


class SessionBusy(ChatError):
    """Another turn of the session is under way."""

    code = "session_busy"
    retryable = True


class SessionLost(ChatError):
    """Another turn took the session over while this one ran; this one leaves no trace in it."""

    code = "session_conflict"
    retryable = True


class SessionTooLarge(ChatError):
    code = "session_too_large"


class TurnStopped(ChatError):
    """An administrator stopped the turn; it leaves nothing in its session."""

    code = "turn_stopped"


class StoreUnavailable(ChatError):
    """Redis can't be reached, is full, or is too slow."""

    code = "session_store_unavailable"
    retryable = True


class DatabaseUnavailable(ChatError):
    code = "database_unavailable"
    retryable = True

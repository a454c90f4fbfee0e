"""What can go wrong on the way to an answer, grouped by what the caller does next.

`code` is stable and machine-readable, `retryable` says whether the same request may work later, `mend` is what the
owner of this hub can do about it. Messages never hold a prompt, a key or more than 200 bytes of a CLI's output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from providers.route import Attempt, Decision

EXCERPT_BYTES = 200
# Shorter pieces of a key tell nothing, and are found in ordinary words.
LEAST_SECRET_CHARS = 8
LEAST_WHOLE_CHARS = 6


def excerpt(raw: bytes | str) -> str:
    """The first bytes of foreign text, fit for an error message."""
    data = raw.encode(errors="replace") if isinstance(raw, str) else raw
    return data[:EXCERPT_BYTES].decode(errors="replace").strip()


class ProviderError(Exception):
    """Base of everything the engine raises. One that ends a turn tells its decision and what was tried."""

    code = "provider_error"
    retryable = False
    decision: Decision | None = None
    attempts: tuple[Attempt, ...] = ()

    def __init__(self, message: str, *, retry_after_s: float | None = None, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.mend = mend

    def redact(self, secrets: tuple[str, ...]) -> None:
        """Blot out secrets of the owner, should a CLI or its vendor have quoted one."""
        for secret in secrets:
            if len(secret) < LEAST_WHOLE_CHARS:  # a flag such as `1` or `true`, and a part of many words
                continue
            # Longest first, down to pieces: an excerpt may have been cut in the middle of one.
            for length in range(len(secret), min(len(secret), LEAST_SECRET_CHARS) - 1, -1):
                self.message = self.message.replace(secret[:length], "***").replace(secret[-length:], "***")
        self.args = (self.message,)


# The owner of the hub has to act; another provider may serve the request.


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"


class NotInstalled(ProviderUnavailable):
    code = "provider_not_installed"


class NeedsLogin(ProviderUnavailable):
    """The CLI has no credentials, or the vendor refused them."""

    code = "provider_needs_login"


class UnsupportedAccount(ProviderUnavailable):
    """The login is valid, but the vendor does not serve this kind of account through its CLI."""

    code = "unsupported_account"


class ProviderChanged(ProviderUnavailable):
    """The turn waited for so long that the provider chosen for it is gone; the next try finds what is there now."""

    code = "provider_changed"
    retryable = True


class ProviderDisabled(ProviderUnavailable):
    """The owner of the hub has switched it off."""

    code = "provider_disabled"


class CrashLoop(ProviderUnavailable):
    """Workers keep dying at start; no new one is tried before `retry_after_s`."""

    code = "provider_crash_loop"
    retryable = True


# Wait and ask again.


class Busy(ProviderError):
    """No worker came free: the queue is full or the wait was too long."""

    code = "provider_busy"
    retryable = True


class Overloaded(ProviderError):
    """The vendor itself is over capacity or failing (HTTP 500, 503, 529)."""

    code = "vendor_overloaded"
    retryable = True


class RateLimited(ProviderError):
    """The vendor refused for quota; `retry_after_s` counts to the reset it named, if it named one."""

    code = "vendor_rate_limited"
    retryable = True


class ShuttingDown(ProviderError):
    code = "shutting_down"
    retryable = True


# The request has to change.


class TurnRefused(ProviderError):
    code = "invalid_request"


class ProviderUnknown(TurnRefused):
    code = "provider_not_found"


class ModelUnknown(TurnRefused):
    code = "model_not_found"


class ContextTooLong(TurnRefused):
    code = "context_length_exceeded"


class RequestTooLarge(TurnRefused):
    code = "request_too_large"


class ParameterUnsupported(TurnRefused):
    """A sampling parameter or input this provider cannot honour."""

    code = "unsupported_parameter"


class ToolsUnsupported(ParameterUnsupported):
    code = "tools_not_supported"


class JsonUnsupported(ParameterUnsupported):
    code = "response_format_not_supported"


class MediaUnsupported(ParameterUnsupported):
    """Images, or files of this type, can't be handed to this provider."""

    code = "media_not_supported"


# The model did not keep to what was asked, also when told of it once.


class AnswerInvalid(ProviderError):
    """A call's arguments, or an answer in JSON, do not fit their schema; or a call that was required did not come."""

    code = "invalid_answer"
    retryable = True


# The worker failed; the pool replaces it by itself.


class WorkerFailed(ProviderError):
    code = "worker_failed"
    retryable = True


class WorkerCrashed(WorkerFailed):
    """The process ended before its answer did."""

    code = "worker_crashed"


class ProtocolBroken(WorkerFailed):
    """The process wrote what its protocol does not allow."""

    code = "worker_protocol_broken"


class StreamCut(WorkerFailed):
    """The connection to the vendor broke before the answer was complete."""

    code = "vendor_stream_cut"


class TimedOut(WorkerFailed):
    """A deadline passed; the message names which one and its length in seconds."""

    code = "timed_out"

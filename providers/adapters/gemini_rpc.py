"""What is the gemini CLI's own in the Agent Client Protocol: its login dialog, its figures, its errors' words."""

from __future__ import annotations

import re
import time

import orjson

from providers.adapters import acp_rpc
from providers.adapters.acp_rpc import Line, Update
from providers.adapters.json_lines import Json
from providers.errors import NeedsLogin, ProtocolBroken, ProviderError, UnsupportedAccount, excerpt
from providers.events import FinishReason, LimitNotice, ReasoningDelta, TextDelta, Usage

# Keys and tokens of Google, should its words ever quote one that is not in the hub's environment.
KEY = re.compile(r"AIza[\w-]{20,}|ya29\.[\w.-]+|AQ\.[\w-]{20,}")

UNSUPPORTED = re.compile(
    r"ineligible|not eligible|unsupported.client|client is no longer supported|location is not supp"
)
LOGIN = re.compile(r"api.key|credential|invalid_grant|not authenticated|authentication|authorization code")

DAILY = re.compile(r"daily quota|per ?day")

# Printed instead of protocol when the login has run out: the CLI asks on its terminal for a new one.
LOGIN_DIALOG = (b"authorize the application", b"authorization code", b"accounts.google.com")


def parse_line(line: bytes) -> Line:
    """One line of the CLI; None for those the hub has no use for.

    Raises ProtocolBroken for a line that is no JSON object, NeedsLogin for the CLI's login dialog.
    """
    try:
        found = acp_rpc.parse_line(line, "gemini")
    except ProtocolBroken as exc:
        if any(words in line for words in LOGIN_DIALOG):
            raise NeedsLogin("the gemini CLI asks for a new login") from exc
        raise
    match found:
        case Update(session, ReasoningDelta(text)):
            return Update(session, ReasoningDelta(text + "\n\n"))
        case Update(event=TextDelta()):
            return found
        case Update():
            return None
    return found


def read_usage(result: Json, recorded: Json) -> Usage | None:
    """The tokens of an answer: from the CLI's own record, else the two figures of its reply. None without any.

    Google counts thoughts apart from the answer's tokens, yet bills and limits both together; so does the hub.
    """
    thoughts = int(recorded.get("thoughts") or 0)
    if recorded:
        return Usage(
            input_tokens=int(recorded.get("input") or 0),
            output_tokens=int(recorded.get("output") or 0) + thoughts,
            cached_tokens=int(recorded.get("cached") or 0),
            reasoning_tokens=thoughts,
        )
    return acp_rpc.read_usage(result)


def finish_reason(usage: Usage, max_tokens: int | None, *, has_only_thought: bool) -> FinishReason:
    """Why the answer ended, inferred: the CLI reports every end alike."""
    is_cut = max_tokens is not None and (has_only_thought or usage.output_tokens >= max_tokens)
    return "length" if is_cut else "stop"


def failure(error: Json, *, mend_login: str = "", secrets: tuple[str, ...] = ()) -> ProviderError:
    """The error a failed request stands for. `code` is the HTTP status, except 500 for an unknown model."""
    status, words, reasons = _vendor_error(error)
    message = f"gemini: {excerpt(redact(words, secrets))}"
    lower = words.lower()
    # What is said of a missing model holds its name, which is the caller's text.
    if UNSUPPORTED.search(lower) and not acp_rpc.MODEL_MISSING.search(lower):
        return UnsupportedAccount(message, mend=mend_login)
    if status == 400 and ("API_KEY_INVALID" in reasons or LOGIN.search(lower)):
        return NeedsLogin(message, mend=mend_login)
    return acp_rpc.failure_of(status, words, message, mend_login=mend_login)


def read_limit(error: Json, model: str) -> LimitNotice | None:
    """What a refused request tells of a quota, which is the model's own. None for any other failure."""
    status, words, reasons = _vendor_error(error)
    if status != 429:
        return None
    wait_s = acp_rpc.wait_s(words.lower())
    is_daily = DAILY.search(f"{words} {reasons}".lower()) is not None
    return LimitNotice(
        status="rejected",
        window="per_day" if is_daily else "per_minute",
        resets_at=None if wait_s is None else time.time() + wait_s,
        model=model,
    )


def _vendor_error(error: Json) -> tuple[int, str, str]:
    """Status, words and reasons; the CLI often hands on the vendor's whole JSON as the message."""
    code, message = error.get("code"), str(error.get("message") or "")
    status = code if isinstance(code, int) else 500
    try:
        inner = orjson.loads(message)["error"]
        return int(inner.get("code") or status), str(inner.get("message") or ""), str(inner.get("details") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return status, message, ""


def redact(words: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        words = words.replace(secret, "***")
    return KEY.sub("***", words)

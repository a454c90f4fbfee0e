"""Every error of the rooms has its status, its type and its code, decided in one table."""

from __future__ import annotations

import logging

import pytest

from chat import errors as chat
from chat.wire.openai_errors import as_http
from providers import errors as engine
from providers import router
from providers.install import InstallError
from providers.registry import adapters_by_name

REQUEST, SERVER = "invalid_request_error", "server_error"
LIMIT, PERMISSION = "rate_limit_error", "permission_error"

EXPECTED: dict[type[Exception], tuple[int, str, str]] = {
    chat.ChatError: (400, REQUEST, "chat_error"),
    chat.KeyMissing: (401, "authentication_error", "missing_api_key"),
    chat.KeyRefused: (401, "authentication_error", "invalid_api_key"),
    chat.TooManyFailures: (429, LIMIT, "too_many_failed_attempts"),
    chat.NotAllowed: (403, PERMISSION, "not_allowed"),
    chat.ScopeMissing: (403, PERMISSION, "insufficient_scope"),
    chat.ProviderNotAllowed: (403, PERMISSION, "provider_not_allowed"),
    chat.ModelNotAllowed: (403, PERMISSION, "model_not_allowed"),
    chat.LimitReached: (429, LIMIT, "rate_limit_exceeded"),
    chat.BudgetSpent: (429, "insufficient_quota", "budget_exceeded"),
    chat.IdempotencyKeyReused: (400, REQUEST, "idempotency_key_reused"),
    chat.ProviderNotFound: (404, REQUEST, "provider_not_found"),
    chat.ProviderConflict: (409, "conflict_error", "provider_conflict"),
    chat.SessionNotFound: (404, REQUEST, "session_not_found"),
    chat.ResponseNotFound: (404, REQUEST, "response_not_found"),
    chat.PreviousResponseNotFound: (400, REQUEST, "previous_response_not_found"),
    chat.SessionBusy: (409, "conflict_error", "session_busy"),
    chat.SessionLost: (409, "conflict_error", "session_conflict"),
    chat.SessionTooLarge: (413, REQUEST, "session_too_large"),
    chat.TurnStopped: (409, "conflict_error", "turn_stopped"),
    chat.StoreUnavailable: (503, SERVER, "session_store_unavailable"),
    chat.DatabaseUnavailable: (503, SERVER, "database_unavailable"),
    chat.BadRequest: (400, REQUEST, "invalid_value"),
    chat.Unsupported: (400, REQUEST, "unsupported_parameter"),
    engine.ProviderUnavailable: (503, SERVER, "provider_unavailable"),
    engine.NotInstalled: (503, SERVER, "provider_not_installed"),
    engine.NeedsLogin: (503, SERVER, "provider_needs_login"),
    engine.UnsupportedAccount: (503, SERVER, "unsupported_account"),
    engine.ProviderDisabled: (503, SERVER, "provider_disabled"),
    engine.ProviderChanged: (503, SERVER, "provider_changed"),
    engine.CrashLoop: (503, SERVER, "provider_crash_loop"),
    router.NoProviderReady: (503, SERVER, "no_provider_ready"),
    engine.Busy: (503, SERVER, "provider_busy"),
    engine.Overloaded: (503, SERVER, "vendor_overloaded"),
    engine.RateLimited: (429, LIMIT, "vendor_rate_limited"),
    engine.ShuttingDown: (503, SERVER, "shutting_down"),
    engine.TurnRefused: (400, REQUEST, "invalid_request"),
    engine.ProviderUnknown: (400, REQUEST, "provider_not_found"),
    engine.ModelUnknown: (404, REQUEST, "model_not_found"),
    engine.ContextTooLong: (400, REQUEST, "context_length_exceeded"),
    engine.RequestTooLarge: (413, REQUEST, "request_too_large"),
    engine.ParameterUnsupported: (400, REQUEST, "unsupported_parameter"),
    engine.ToolsUnsupported: (400, REQUEST, "tools_not_supported"),
    engine.JsonUnsupported: (400, REQUEST, "response_format_not_supported"),
    engine.MediaUnsupported: (400, REQUEST, "media_not_supported"),
    engine.AnswerInvalid: (502, SERVER, "invalid_answer"),
    engine.WorkerFailed: (502, SERVER, "worker_failed"),
    engine.WorkerCrashed: (502, SERVER, "worker_crashed"),
    engine.ProtocolBroken: (502, SERVER, "worker_protocol_broken"),
    engine.StreamCut: (502, SERVER, "vendor_stream_cut"),
    engine.TimedOut: (504, SERVER, "timed_out"),
}


def below(kind: type[Exception]) -> set[type[Exception]]:
    """The class's descendants in the product, however deep."""
    rooms = ("chat", "mcpbridge", "providers")
    children = {child for child in kind.__subclasses__() if child.__module__.split(".")[0] in rooms}
    return children.union(*(below(child) for child in children))


def test_every_error_of_the_rooms_has_an_expectation() -> None:
    """A new error class without a status would be answered as a bug of the hub."""
    adapters_by_name()  # imports them all
    doors = below(engine.ProviderError) - {InstallError}  # that one is a command's
    assert set(EXPECTED) == doors | {chat.ChatError} | below(chat.ChatError)


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_error_has_its_status_type_and_code(kind: type[Exception]) -> None:
    answer = as_http(kind("what went wrong"))
    detail = answer.body["error"]
    assert (answer.status, detail["type"], detail["code"]) == EXPECTED[kind]
    assert detail["message"] == "what went wrong"


@pytest.mark.parametrize(("wait_s", "shown"), [(0.0, "1"), (0.2, "1"), (2.0, "2"), (59.1, "60")])
def test_known_wait_is_rounded_up_to_whole_seconds(wait_s: float, shown: str) -> None:
    assert as_http(engine.RateLimited("no", retry_after_s=wait_s)).headers["Retry-After"] == shown


def test_unknown_wait_is_not_made_up() -> None:
    assert "Retry-After" not in as_http(engine.Overloaded("no")).headers


def test_sdks_are_told_whether_asking_again_can_help() -> None:
    """OpenAI's SDKs repeat every 5xx twice unless this header says no."""
    assert as_http(engine.Overloaded("no")).headers["X-Should-Retry"] == "true"
    assert as_http(engine.NeedsLogin("no")).headers["X-Should-Retry"] == "false"


def test_missing_key_says_how_to_send_one() -> None:
    assert as_http(chat.KeyMissing("no")).headers["WWW-Authenticate"].startswith("Bearer")


def test_message_tells_the_owner_how_to_mend_it_once() -> None:
    told = as_http(engine.NotInstalled("no claude", mend="install it")).body["error"]["message"]
    assert told == "no claude (to mend it: install it)"
    told = as_http(engine.NotInstalled("no claude: install it", mend="install it")).body["error"]["message"]
    assert told == "no claude: install it"


def test_faulty_field_is_named() -> None:
    assert as_http(chat.BadRequest("no", param="stop")).body["error"]["param"] == "stop"
    assert as_http(engine.ModelUnknown("no")).body["error"]["param"] == "model"
    assert as_http(engine.ProviderUnknown("no")).body["error"]["param"] == "provider"


def test_unforeseen_error_is_logged_whole_and_answered_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = as_http(RuntimeError("a secret"))
    assert (answer.status, answer.body["error"]["code"]) == (500, "internal_error")
    assert "secret" not in str(answer.body)
    assert "a secret" in caplog.text

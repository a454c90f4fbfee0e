"""What claude's notices of its vendor's usage windows mean."""

from __future__ import annotations

import pytest

from providers.adapters.claude_wire import failure, read_limit, read_other_windows
from providers.errors import ModelUnknown, NeedsLogin, ProviderError
from providers.events import LimitNotice

RESET = 1_795_400_000


@pytest.mark.parametrize(
    ("info", "notice"),
    [
        ({"status": "allowed", "isUsingOverage": False}, LimitNotice("allowed", "")),
        (
            {"status": "allowed_warning", "rateLimitType": "five_hour", "resetsAt": RESET, "utilization": 0.91},
            LimitNotice("warning", "five_hour", RESET, 0.91),
        ),
        (
            {"status": "rejected", "rateLimitType": "seven_day_opus", "resetsAt": RESET},
            LimitNotice("rejected", "seven_day_opus", RESET, model="opus"),
        ),
        (
            {"status": "rejected", "rateLimitType": "seven_day", "resetsAt": RESET, "isUsingOverage": True},
            LimitNotice("warning", "seven_day", RESET),
        ),
        (
            {"status": "news", "rateLimitType": None, "resetsAt": "soon", "utilization": True},
            LimitNotice("allowed", ""),
        ),
    ],
    ids=["nothing", "warned", "of one model", "beyond the window", "odd"],
)
def test_a_notice_is_read_as_what_follows_from_it(info: dict[str, object], notice: LimitNotice) -> None:
    assert read_limit(info) == notice


def test_the_windows_beside_the_one_that_is_told_of_are_read_too() -> None:
    windows = {
        "five_hour": {"utilization": 0.91, "resetsAt": RESET},
        "seven_day": {"utilization": 1, "resetsAt": RESET + 9, "status": "rejected"},
        "seven_day_opus": {"utilization": 0.5, "resetsAt": RESET + 9},
        "odd": "text",
    }
    assert read_other_windows({"unifiedWindows": windows}, "five_hour") == [
        LimitNotice("warning", "seven_day", RESET + 9, 1),
        LimitNotice("allowed", "seven_day_opus", RESET + 9, 0.5, model="opus"),
    ]
    assert read_other_windows({}, "five_hour") == []
    assert read_other_windows({"unifiedWindows": None}, "") == []


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (None, "Not logged in · Please run /login", NeedsLogin),
        (404, "There's an issue with the selected model (claude-not logged in organization).", ModelUnknown),
    ],
)
def test_only_the_program_itself_tells_of_no_login_in_words(
    status: int | None, words: str, expected: type[ProviderError]
) -> None:
    assert type(failure({"api_error_status": status, "result": words}, None, "log in")) is expected

"""The log's two shapes: one JSON object per line for machines, one line per event for people.

Of what a record carries only the fields named here are told, so that nothing gets into the log by being at hand.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

from chat.log_ids import log_ids

# What a line may tell beside time, level, event, logger and message.
FIELDS = (
    *("request_id", "turn_id", "session", "key_id", "door", "method", "route", "status"),
    *("provider", "model", "outcome", "fault", "start", "attempts", "state", "pid", "reason", "exit_code"),
    *("duration_ms", "first_token_ms", "turns", "age_s"),
    *("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "version"),
)
# A line that names no event of its own.
PLAIN = "log"
# All of a URL behind its host.
BEHIND_HOST = re.compile(r"(?<=://)([^/?#\s]*)\S*")
# What would begin a new line, or worse, on a terminal.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class WithIds(logging.Filter):
    """Puts the ids of the request and the turn that run now onto a record; what it says itself stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in log_ids().items():
            record.__dict__.setdefault(name, value)
        return True


class WithoutPath(logging.Filter):
    """For Django's loggers that end a line with the path, which may hold what a caller wrote: the words before it stay.

    Those may quote the page that led here; of that its host is told, which is what has to be mended.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and record.args:
            said = str(record.msg) % (*record.args[:-1], "")
            record.msg, record.args = BEHIND_HOST.sub(r"\1", said).removesuffix(": "), ()
        return True


class JsonLines(OrjsonFormatter):
    """One JSON object per line, whatever the message holds. Times are UTC, in ISO 8601."""

    def __init__(self) -> None:
        super().__init__([])

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        told = record.__dict__
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        log_data["level"] = record.levelname
        log_data["event"] = told.get("event", PLAIN)
        log_data["logger"] = record.name
        log_data["message"] = record.message
        for name in FIELDS:
            value = told.get(name)
            if value is not None and value != "":
                log_data[name] = value
        if trace := message_dict.get("exc_info"):
            log_data["traceback"] = trace


class TextLines(logging.Formatter):
    """A line for people, which ends with the request's id if there is one. A traceback follows below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), record.message)
        line = super().formatMessage(record)
        request_id = record.__dict__.get("request_id")
        return f"{line} ({request_id})" if request_id else line

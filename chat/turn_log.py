"""One line of the log for each turn that is over: its figures, nothing of what was said."""

from __future__ import annotations

import logging

from chat.conversation import Figures
from chat.faults import fault_of
from chat.metrics import NONE, model_label
from chat.running import RunningTurn

logger = logging.getLogger(__name__)


def log_turn(figures: Figures, running: RunningTurn) -> None:
    fault = fault_of(figures.outcome)
    # What the vendor says it is; a name that only the caller has written is his own text.
    model = figures.model if running.started else model_label(running.decision, figures.provider, figures.model)
    told = {
        "event": "turn",
        "turn_id": figures.turn_id,
        "request_id": figures.request_id,
        "session": running.session_id,
        "key_id": figures.key_id,
        "door": running.door,
        "provider": figures.provider,
        "model": model,
        "outcome": figures.outcome,
        "fault": fault,
        "start": figures.start,
        "attempts": len(running.attempts),
        "first_token_ms": figures.first_token_ms,
        "duration_ms": figures.total_ms,
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
        "cached_tokens": figures.cached_tokens,
        "cost_usd": figures.cost_usd,
    }
    level = logging.WARNING if fault == "hub" else logging.INFO
    logger.log(level, "turn %s by %s in %s", figures.outcome, _who(figures, model), _how(figures), extra=told)


def _who(figures: Figures, model: str) -> str:
    return f"{figures.provider}/{model}" if figures.provider else NONE


def _how(figures: Figures) -> str:
    first = "" if figures.first_token_ms is None else f" (first word {figures.first_token_ms} ms)"
    cost = "" if figures.cost_usd is None else f", ${figures.cost_usd:.6g}"
    return f"{figures.total_ms} ms{first}, {figures.input_tokens} + {figures.output_tokens} tokens{cost}"

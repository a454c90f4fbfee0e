"""The administrator's pages: keys, sessions, turns, prices."""

from chat.admin.keys import ApiKeyAdmin
from chat.admin.prices import PriceAdmin
from chat.admin.sessions import SessionAdmin
from chat.admin.turns import TurnRecordAdmin

__all__ = ["ApiKeyAdmin", "PriceAdmin", "SessionAdmin", "TurnRecordAdmin"]

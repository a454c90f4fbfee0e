"""The administrator's pages of this room: providers and the rules of routing."""

from providers.admin.providers import ProviderRowAdmin
from providers.admin.rules import RouteRuleAdmin

__all__ = ["ProviderRowAdmin", "RouteRuleAdmin"]

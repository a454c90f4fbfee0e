"""What an operator may do from the dashboard: to a provider in every hub, to a worker or a turn of this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from django.contrib.admin import AdminSite
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone

from chat.dashboard.now import stop_turn
from chat.models import TurnRecord
from providers.admin.live import clear
from providers.admin.snapshot import replace_worker
from providers.models import ProviderRow

CHANGE_PROVIDER = "providers.change_providerrow"
STOP_TURN = "chat.stop_turn"
SOON = "Every hub goes by it within two seconds."


class NothingThere(Exception):
    """What was to be acted on is not there (any more), in words for whoever asked."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who acts, and on what: of the names, those an act has no use for are empty."""

    request: HttpRequest
    site: AdminSite
    provider: str = ""
    pid: int = 0
    turn: str = ""

    @classmethod
    def of(cls, request: HttpRequest, site: AdminSite) -> Target:
        form: Mapping[str, str] = request.POST
        pid = form.get("pid", "")
        is_number = pid.isascii() and pid.isdecimal() and len(pid) < 12
        return cls(request, site, form.get("provider", ""), int(pid) if is_number else 0, form.get("turn", ""))

    @property
    def row(self) -> ProviderRow:
        """Raises NothingThere."""
        found = ProviderRow.objects.filter(name=self.provider).first() if "\0" not in self.provider else None
        if found is None:
            raise NothingThere("There is no such provider any more.")
        return found

    def note(self, row: ProviderRow, what: str) -> None:
        """Into the row's history."""
        self.site.get_model_admin(ProviderRow).log_change(self.request, row, what)


@dataclass(frozen=True, slots=True)
class Act:
    """`do` says what was done. Raises NothingThere."""

    permission: str
    do: Callable[[Target], str]

    def is_allowed(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.permission)


def _restart(target: Target) -> str:
    row = target.row
    ProviderRow.objects.filter(pk=row.pk).update(generation=F("generation") + 1, updated_at=timezone.now())
    target.note(row, "Restarted.")
    return f"{row} gets new workers; turns end on the old ones. {SOON}"


def _drain(target: Target, *, is_drained: bool) -> str:
    row = target.row
    ProviderRow.objects.filter(pk=row.pk).update(is_drained=is_drained, updated_at=timezone.now())
    target.note(row, "Drained." if is_drained else "Undrained.")
    return f"{row} gets {'no new turns' if is_drained else 'turns again'}. {SOON}"


def _clear_cooldown(target: Target) -> str:
    row = target.row
    if not clear(row.name):
        raise NothingThere(f"{row} does not run in this process.")
    target.note(row, "Cleared its cooldown.")
    return f"{row} is tried with the next turn."


def _replace_worker(target: Target) -> str:
    row = target.row
    if not replace_worker(row.name, target.pid):
        raise NothingThere(f"{row} has no worker {target.pid} here any more.")
    target.note(row, f"Restarted its worker {target.pid}.")
    return f"Worker {target.pid} of {row} goes, after its turn if it has one; another starts when one is needed."


def _stop_turn(target: Target) -> str:
    if not stop_turn(target.turn):
        raise NothingThere("This turn is over, or runs in another hub.")
    LogEntry.objects.create(
        user_id=target.request.user.pk or 0,
        content_type=ContentType.objects.get_for_model(TurnRecord),
        object_id=target.turn,
        object_repr=f"turn {target.turn}",
        action_flag=CHANGE,
        change_message="Stopped.",
    )
    return "The turn is stopped; its caller is told so."


ACTS: dict[str, Act] = {
    "restart": Act(CHANGE_PROVIDER, _restart),
    "drain": Act(CHANGE_PROVIDER, lambda it: _drain(it, is_drained=True)),
    "undrain": Act(CHANGE_PROVIDER, lambda it: _drain(it, is_drained=False)),
    "clear_cooldown": Act(CHANGE_PROVIDER, _clear_cooldown),
    "replace_worker": Act(CHANGE_PROVIDER, _replace_worker),
    "stop_turn": Act(STOP_TURN, _stop_turn),
}

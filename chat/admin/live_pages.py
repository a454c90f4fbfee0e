"""Pages of the sessions in Redis, for hubs whose archive is off, and what both kinds of session pages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from chat.admin.base import RecordAdmin, is_confirmed
from chat.admin.filters import MOST_CHOICES
from chat.admin.live import MOST_LISTED, delete_live, live_head, live_heads
from chat.admin.transcript import PER_PAGE, About, Line, LiveLines, export
from chat.archive_writer import erase_session
from chat.conversation import Head
from chat.errors import StoreUnavailable
from chat.models import ApiKey, Session

TITLE = "Erase these conversations?"
ERASE_NOTES = (
    "Their texts are erased for good, in the archive and in Redis; a turn that is under way can't bring them back.",
    "Earlier conversations of the same owner and session id are erased with them. The turns' figures stay.",
)


class LivePages(RecordAdmin[Session]):
    """Sessions as Redis has them. They have no row, so they are named by their owner and id."""

    def live_urls(self) -> list[URLPattern]:
        views = {
            "live": self.live_list,
            "live/show": self.live_transcript,
            "live/export": self.live_export,
            "live/erase": self.live_erase,
        }
        return [
            path(f"{name}/", self.admin_site.admin_view(view), name=f"chat_session_{name.replace('/', '_')}")
            for name, view in views.items()
        ]

    def url(self, name: str, *args: str) -> str:
        return reverse(f"{self.admin_site.name}:chat_session_{name}", args=args)

    def live_url(self, name: str, head: Head) -> str:
        return f"{self.url(f'live_{name}')}?{urlencode({'owner': head.owner, 'session_id': head.session_id})}"

    def require(self, request: HttpRequest, permission: str) -> None:
        has = {"view": self.has_view_permission, "delete": self.has_delete_permission}[permission]
        if not has(request):
            raise PermissionDenied

    def gone(self, request: HttpRequest, why: str = "There is no such conversation any more.") -> HttpResponse:
        self.message_user(request, why, messages.WARNING)
        return HttpResponseRedirect(self.changelist_url())

    # --- pages

    def live_list(self, request: HttpRequest) -> TemplateResponse:
        self.require(request, "view")
        owner, word = (request.GET.get(name, "").strip() for name in ("owner", "q"))
        owners = list(ApiKey.objects.order_by("owner").values_list("owner", flat=True).distinct())
        trouble = ""
        try:
            heads = live_heads([owner] if owner else owners)
        except StoreUnavailable as error:
            heads, trouble = [], error.message
        found = [it for it in heads if it.session_id.startswith(word) or it.title.lower().startswith(word.lower())]
        page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
        context = {
            "title": "Live sessions",
            "page": page,
            "rows": [(About.of_head(it), self.live_url("show", it)) for it in page],
            "is_cut": len(heads) >= MOST_LISTED,
            "most": MOST_LISTED,
            "owner": owner,
            "owners": owners[:MOST_CHOICES],
            "q": word,
            "trouble": trouble,
            "archive_is_off": not settings.HUB_SESSION_ARCHIVE,
        }
        return self.page(request, "session/live.html", context)

    def live_transcript(self, request: HttpRequest) -> HttpResponseBase:
        return self._with_head(request, self._show)

    def live_export(self, request: HttpRequest) -> HttpResponseBase:
        return self._with_head(request, self._export)

    def _with_head(
        self, request: HttpRequest, view: Callable[[HttpRequest, Head], HttpResponseBase]
    ) -> HttpResponseBase:
        self.require(request, "view")
        try:
            head = live_head(request.GET.get("owner", ""), request.GET.get("session_id", ""))
            return view(request, head) if head else self.gone(request)
        except StoreUnavailable as error:
            return self.gone(request, error.message)

    def _show(self, request: HttpRequest, head: Head) -> HttpResponse:
        urls = {name: self.live_url(name, head) for name in ("export", "erase")}
        context = {"about": About.of_head(head), "state": "live", "export": urls["export"], "delete": urls["erase"]}
        return self.transcript(request, LiveLines(head.owner, head.session_id), context)

    def _export(self, request: HttpRequest, head: Head) -> HttpResponseBase:
        return export(request, About.of_head(head), LiveLines(head.owner, head.session_id))

    def transcript(self, request: HttpRequest, lines: Sequence[Line], context: dict[str, Any]) -> HttpResponse:
        about = context["about"]
        page = Paginator(lines, PER_PAGE).get_page(request.GET.get("page"))
        own = {
            "title": about.title or about.session_id,
            "page": page,
            "may_delete": self.has_delete_permission(request),
        }
        return self.page(request, "session/transcript.html", {**own, **context})

    # --- erasing

    def live_erase(self, request: HttpRequest) -> HttpResponse:
        self.require(request, "delete")
        owner, session_id = (request.GET.get(name, "") for name in ("owner", "session_id"))
        if request.method == "POST" and is_confirmed(request):
            self.erase_all(request, [(owner, session_id)])
            return HttpResponseRedirect(self.url("changelist"))
        rows = [f"{session_id} of {owner}"]
        context = {"title": TITLE, "notes": ERASE_NOTES, "rows": rows, "target": request.get_full_path()}
        return self.page(request, "confirm.html", context)

    def erase_all(self, request: HttpRequest, names: Sequence[tuple[str, str]]) -> None:
        """Erase sessions by owner and id, and say how many."""
        count = 0
        try:
            for owner, session_id in dict.fromkeys(names):
                uids = erase_everywhere(owner, session_id)
                self._log_erasure(request, uids, session_id)
                count += bool(uids)
        except StoreUnavailable as error:
            self.message_user(request, f"{error.message}. The rest was not erased; try again.", messages.ERROR)
        word = "conversation was" if count == 1 else "conversations were"
        self.message_user(request, f"{count} {word} erased.", messages.SUCCESS if count else messages.WARNING)

    def _log_erasure(self, request: HttpRequest, uids: Sequence[str], session_id: str) -> None:
        """Who erased what, by its id: the usual entry would keep the title, which is the caller's text."""
        kind = ContentType.objects.get_for_model(Session)
        LogEntry.objects.bulk_create(
            LogEntry(
                user_id=request.user.pk or 0,
                content_type=kind,
                object_id=uid,
                object_repr=session_id,
                action_flag=DELETION,
            )
            for uid in uids
        )


def erase_everywhere(owner: str, session_id: str) -> list[str]:
    """Erase a session in Redis and in the archive; the uids it had. Raises StoreUnavailable, and then did nothing."""
    archived = Session.objects.filter(owner=owner, session_id=session_id, deleted_at=None)
    uids = list(archived.values_list("pk", flat=True))
    uid = delete_live(owner, session_id, uids=uids)
    # Redis may know of turns the archive has yet to be told of. Where there is no archive, no mark belongs there.
    erased = erase_session(owner, session_id, {uid} if uid and settings.HUB_SESSION_ARCHIVE else set())
    return sorted({*erased, uid} - {""})

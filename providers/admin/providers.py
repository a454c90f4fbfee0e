from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from providers.admin.forms import AliasesField, CommandField, RowForm, WordsField
from providers.admin.live import UNKNOWN, Live, clear, look
from providers.models import ProviderRow
from providers.provider_config import ProviderConfig
from providers.registry import adapters_by_name
from providers.rows import MB, problem_of

if TYPE_CHECKING:
    BaseAdmin = admin.ModelAdmin[ProviderRow]
else:
    from unfold.admin import ModelAdmin as BaseAdmin

SOON = "Every hub goes by it within two seconds."
# Of a number that is left empty: what the settings say of it.
DEFAULTS: dict[str, Callable[[ProviderConfig], object]] = {
    "context_tokens": lambda it: it.adapter.info.context_tokens,
    "floor": lambda it: it.pool.floor,
    "ceiling": lambda it: it.pool.ceiling,
    "memory_mb": lambda it: it.pool.memory_bytes // MB or "no limit",
    "rss_mb": lambda it: it.pool.rss_bytes // MB or "no limit",
    "nice": lambda it: it.process.nice,
    "cpu_weight": lambda it: it.process.cpu_weight or "not set",
    "cpu_s": lambda it: it.process.cpu_s or "no limit",
    "max_processes": lambda it: it.process.max_processes or "no limit",
    "memory_max_mb": lambda it: it.process.memory_bytes // MB or "no limit",
    "ready_s": lambda it: it.deadlines.ready_s,
    "first_event_s": lambda it: it.deadlines.first_event_s,
    "silence_s": lambda it: it.deadlines.silence_s,
    "turn_s": lambda it: it.deadlines.turn_s,
    "requests_per_minute": lambda it: it.requests_per_minute or "no limit",
    "concurrent_turns": lambda it: it.concurrent_turns or "no limit",
    "default_model": lambda it: it.default_model or it.adapter.info.default_model,
}


class ProviderForm(RowForm[ProviderRow]):
    model_names = WordsField(
        label="Models", help_text="Commas between them. Empty: those the adapter knows. Callers may name these."
    )
    aliases = AliasesField(label="Aliases", help_text="More names for models, one to a line: quick = haiku", rows=4)

    class Meta:
        model = ProviderRow
        exclude = ("generation", "is_drained")
        help_texts = {
            "name": "Callers name it. A small letter, then small letters, digits, - and _. It stays as it is.",
            "is_enabled": "Off: it gets no new turns; those it has end first.",
            "context_tokens": "What a prompt may hold.",
            "memory_mb": "0: no limit.",
            "rss_mb": "A worker with more is replaced after its turn. 0: no limit.",
            "nice": "0 to 19: how far its processes stand back.",
            "cpu_weight": "1 to 10000 against other workers, 100 is usual. 0: not set. "
            "Without cgroups one below 100 becomes niceness.",
            "max_processes": "A worker with more is replaced after its turn, with twice as many at once. 0: no limit.",
            "memory_max_mb": "Held by the kernel, where the hub has cgroups. 0: no limit.",
            "requests_per_minute": "What its vendor is asked at most. 0: no limit.",
            "concurrent_turns": "What its vendor is asked at a time. 0: no limit.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known, row = settings.HUB_PROVIDER_SETTINGS, self.instance
        if "adapter" in self.fields:
            self.fields["adapter"] = forms.ChoiceField(
                choices=[(name, f"{name}: {it.info.title}") for name, it in adapters_by_name().items()],
                help_text="What it speaks. It stays as it is.",
            )
        if "command" not in self.fields:  # who may only look
            return
        where = "Of what the setting HUB_ALLOWED_COMMANDS holds"
        self.fields["command"] = CommandField(
            known.allowed_commands,
            row.command,
            label="Command line",
            help_text=f"{where}, for adapters of any program.",
        )
        programs = [it[0] for it in known.allowed_commands if len(it) == 1]
        self.fields["binary"] = _choice("Program", f"{where}, for adapters with a program.", programs, row.binary)
        self.fields["extra_env"] = _ticks(known.allowed_env, row.extra_env)
        self._tell_defaults(known.configs.get(row.adapter))

    def _tell_defaults(self, config: ProviderConfig | None) -> None:
        for column, default in DEFAULTS.items():
            field = self.fields[column]
            told = f"Empty: as the settings say{f' ({default(config)})' if config else ''}."
            field.help_text = f"{field.help_text} {told}".strip()


def _choice(label: str, help_text: str, words: list[str], present: str) -> forms.ChoiceField:
    choices = [("", "as the settings say"), *((it, it) for it in dict.fromkeys([*words, *filter(None, [present])]))]
    return forms.ChoiceField(label=label, help_text=help_text, required=False, choices=choices)


def _ticks(words: tuple[str, ...], present: object) -> forms.MultipleChoiceField:
    now = [str(it) for it in present] if isinstance(present, list) else []
    return forms.MultipleChoiceField(
        label="Extra environment names",
        help_text="Of what the setting HUB_ALLOWED_ENV holds. Their values stay in the hub's environment.",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[(it, it) for it in dict.fromkeys([*words, *now])],
    )


class ProviderList(ChangeList):
    """Asks the engine once for all rows."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        _attach(self.result_list)


def _attach(rows: list[ProviderRow]) -> None:
    seen = look()
    for row in rows:
        cast(Any, row).live = seen.get(row.name, Live())


def _live(row: ProviderRow) -> Live:
    return getattr(row, "live", None) or Live()


@admin.register(ProviderRow)
class ProviderRowAdmin(BaseAdmin):
    form = ProviderForm
    list_display = ("name", "adapter", "is_enabled", "state", "until", "workers", "note")
    list_filter = ("is_enabled", "is_drained", "adapter")
    search_fields = ("name",)
    actions = ("restart", "drain", "undrain", "clear_cooldown", "enable", "disable")
    about = ("state", "since", "until", "why", "mend", "workers", "windows", "version", "problem", "updated_at")
    readonly_fields = about
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    fieldsets = (
        (None, {"fields": ("name", "adapter", "is_enabled")}),
        ("Program", {"fields": ("binary", "command", "extra_env")}),
        ("Models", {"fields": ("default_model", "model_names", "aliases", "context_tokens")}),
        ("Workers", {"fields": ("floor", "ceiling", "memory_mb", "rss_mb", "memory_max_mb")}),
        ("Processor and processes", {"fields": ("nice", "cpu_weight", "cpu_s", "max_processes")}),
        ("Deadlines", {"fields": ("ready_s", "first_event_s", "silence_s", "turn_s")}),
        ("Limits towards the vendor", {"fields": ("requests_per_minute", "concurrent_turns")}),
    )

    # --- what is shown

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ProviderList]:
        return ProviderList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ProviderRow | None:
        row = super().get_object(request, object_id, from_field)
        _attach([row] if row else [])
        return row

    def get_fieldsets(self, request: HttpRequest, obj: ProviderRow | None = None) -> Any:
        return (("Now", {"fields": self.about}), *self.fieldsets) if obj else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: ProviderRow | None = None) -> Any:
        return (*self.about, "name", "adapter") if obj else self.about

    @admin.display(description="state")
    def state(self, row: ProviderRow) -> str:
        return _live(row).state

    @admin.display(description="since (UTC)")
    def since(self, row: ProviderRow) -> str:
        return _live(row).since or "-"

    @admin.display(description="until (UTC)")
    def until(self, row: ProviderRow) -> str:
        return _live(row).until or "-"

    @admin.display(description="why")
    def why(self, row: ProviderRow) -> str:
        return _live(row).why or "-"

    @admin.display(description="what mends it")
    def mend(self, row: ProviderRow) -> str:
        return _live(row).mend or "-"

    @admin.display(description="version")
    def version(self, row: ProviderRow) -> str:
        return _live(row).version or "-"

    @admin.display(description="workers here")
    def workers(self, row: ProviderRow) -> str:
        return _live(row).workers or UNKNOWN

    @admin.display(description="usage windows")
    def windows(self, row: ProviderRow) -> str:
        return _live(row).windows or "-"

    @admin.display(description="what is wrong with this row")
    def problem(self, row: ProviderRow) -> str:
        return problem_of(row) or "-"

    @admin.display(description="note")
    def note(self, row: ProviderRow) -> str:
        if problem := problem_of(row):
            return f"BROKEN, not gone by: {problem}"
        return "drained" if row.is_drained else _live(row).mend or "-"

    # --- changing

    def save_model(self, request: HttpRequest, obj: ProviderRow, form: Any, change: bool) -> None:
        if not change:
            obj.save()
        elif form.changed_data:
            # Only these: it may have been drained or restarted since the form was shown.
            obj.save(update_fields=[*form.changed_data, "updated_at"])

    def has_delete_permission(self, request: HttpRequest, obj: ProviderRow | None = None) -> bool:
        """Those of HUB_PROVIDERS would come back with the next start: they are disabled instead."""
        is_own = obj is not None and obj.name in settings.HUB_PROVIDER_SETTINGS.names
        return not is_own and super().has_delete_permission(request, obj)

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        tools = [(name, title) for name, (_, _, title) in self.get_actions(request).items()]
        return super().change_view(request, object_id, form_url, {"row_actions": tools, **(extra_context or {})})

    # --- actions

    @admin.action(description="Restart", permissions=["change"])
    def restart(self, request: HttpRequest, queryset: QuerySet[ProviderRow]) -> None:
        self._set(request, queryset, "Restarted", generation=F("generation") + 1)

    @admin.action(description="Drain", permissions=["change"])
    def drain(self, request: HttpRequest, queryset: QuerySet[ProviderRow]) -> None:
        self._set(request, queryset, "Drained", is_drained=True)

    @admin.action(description="Undrain", permissions=["change"])
    def undrain(self, request: HttpRequest, queryset: QuerySet[ProviderRow]) -> None:
        self._set(request, queryset, "Undrained", is_drained=False)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[ProviderRow]) -> None:
        self._set(request, queryset, "Enabled", is_enabled=True)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[ProviderRow]) -> None:
        self._set(request, queryset, "Disabled", is_enabled=False)

    @admin.action(description="Clear cooldown", permissions=["change"])
    def clear_cooldown(self, request: HttpRequest, queryset: QuerySet[ProviderRow]) -> None:
        rows = list(queryset)
        cleared = [row for row in rows if clear(row.name)]
        for row in cleared:
            self.log_change(request, row, "Cleared its cooldown.")
        if cleared:
            self.message_user(request, f"Cooldown cleared: {', '.join(map(str, cleared))}.", messages.SUCCESS)
        if missing := [row for row in rows if row not in cleared]:
            self.message_user(
                request, f"Not running in this process: {', '.join(map(str, missing))}.", messages.WARNING
            )

    def _set(self, request: HttpRequest, rows: QuerySet[ProviderRow], word: str, **values: Any) -> None:
        chosen = list(rows)
        ProviderRow.objects.filter(pk__in=[row.pk for row in chosen]).update(**values, updated_at=timezone.now())
        for row in chosen:
            self.log_change(request, row, f"{word}.")
        self.message_user(request, f"{word}: {', '.join(map(str, chosen))}. {SOON}", messages.SUCCESS)

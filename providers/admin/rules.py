from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from providers.admin.forms import RowForm, TargetsField, WordsField, shown_target
from providers.admin.try_rules import TryForm, outcome_of
from providers.models import RouteRule
from providers.rows import problem_of
from providers.rules import DAYS, NEW

if TYPE_CHECKING:
    BaseAdmin = admin.ModelAdmin[RouteRule]
else:
    from unfold.admin import ModelAdmin as BaseAdmin

STEP = 10
# Conditions by their column, as the list shows those that are set.
NUMBERS = {"least_tokens": "at least {} tokens", "most_tokens": "at most {} tokens"}
SWITCHES = {"is_code": "code", "has_images": "images", "has_tools": "tools", "wants_json": "JSON output"}
LISTS = {"languages": "language", "model_names": "model", "keys": "key", "session_providers": "session:"}


class PositionForm(RowForm[RouteRule]):
    """What can be changed in the list itself."""

    class Meta:
        model = RouteRule
        fields = ("position", "is_enabled")


class RuleForm(RowForm[RouteRule]):
    targets = TargetsField(
        label="Targets",
        rows=4,
        help_text="Who answers, one to a line: <code>claude</code>, <code>claude/small</code> (its small model), "
        "<code>gemini/flash 3</code>. One is drawn by weight (1 if not named); those of weight 0 come last.",
    )
    fallback = WordsField(
        label="Fallback chain",
        help_text="Providers, or provider/model, asked after the targets. Empty: the hub's chain (HUB_FALLBACK_CHAIN).",
    )
    languages = WordsField(label="Languages", help_text="ISO 639-1 codes with commas between them: en, de.")
    model_names = WordsField(
        label="Models",
        help_text="What the request names, * at the end for the beginning of a name: <code>gpt-4*</code>. "
        "Without one the rule is only for requests that name no model.",
    )
    keys = WordsField(label="Keys", help_text="Names of callers' keys.")
    session_providers = WordsField(
        label="Session's provider", help_text=f"Who answered in the session last; {NEW}: nobody yet."
    )
    days = forms.TypedMultipleChoiceField(
        label="Days",
        help_text="None ticked: all.",
        required=False,
        coerce=int,
        empty_value=[],
        choices=list(enumerate(DAYS)),
        widget=forms.CheckboxSelectMultiple,
    )

    class Meta:
        model = RouteRule
        exclude = ()
        help_texts = {
            "name": "Sent back in X-Hub-Route.",
            "position": "The first rule that fits decides, the smallest position first.",
            "hours": "HH:MM-HH:MM. Hours over midnight belong to the day they begin on.",
            "time_zone": "Of hours and days, for example Europe/Berlin.",
        }


@admin.register(RouteRule)
class RouteRuleAdmin(BaseAdmin):
    form = RuleForm
    list_display = ("name", "position", "is_enabled", "conditions", "answers", "note")
    list_editable = ("position", "is_enabled")
    search_fields = ("name",)
    actions = ("move_up", "move_down", "enable", "disable")
    readonly_fields = ("problem", "updated_at")
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    fieldsets = (
        (None, {"fields": ("name", "position", "is_enabled")}),
        ("Who answers", {"fields": ("targets", "fallback")}),
        ("What the request is like", {"fields": ("least_tokens", "most_tokens", *SWITCHES, "languages")}),
        ("Who asks for what", {"fields": ("model_names", "keys", "session_providers")}),
        ("When", {"fields": ("hours", "time_zone", "days")}),
    )

    # --- what is shown

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, form=PositionForm, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: RouteRule | None = None) -> Any:
        return (*self.fieldsets, ("About this rule", {"fields": self.readonly_fields})) if obj else self.fieldsets

    @admin.display(description="for requests with")
    def conditions(self, rule: RouteRule) -> str:
        numbers = [text.format(value) for it, text in NUMBERS.items() if (value := getattr(rule, it)) is not None]
        switches = [
            text if value else f"no {text}" for it, text in SWITCHES.items() if (value := getattr(rule, it)) is not None
        ]
        lists = [f"{text} {_joined(value)}" for it, text in LISTS.items() if (value := getattr(rule, it))]
        times = [rule.hours] * bool(rule.hours) + [f"days {_joined(rule.days)}"] * bool(rule.days)
        return "; ".join([*numbers, *switches, *lists, *times]) or "anything"

    @admin.display(description="answered by")
    def answers(self, rule: RouteRule) -> str:
        try:
            return ", ".join(shown_target(it) for it in rule.targets)
        except (TypeError, KeyError):
            return str(rule.targets)

    @admin.display(description="what is wrong with this rule")
    def problem(self, rule: RouteRule) -> str:
        return problem_of(rule) or "-"

    @admin.display(description="note")
    def note(self, rule: RouteRule) -> str:
        problem = problem_of(rule)
        return f"BROKEN, not gone by: {problem}" if problem else "-"

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        last = RouteRule.objects.last()
        return {"position": (last.position if last else 0) + STEP, "time_zone": "UTC"}

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    # --- order and switches

    @admin.action(description="Move up", permissions=["change"])
    def move_up(self, request: HttpRequest, queryset: QuerySet[RouteRule]) -> None:
        self._move(request, queryset, -1)

    @admin.action(description="Move down", permissions=["change"])
    def move_down(self, request: HttpRequest, queryset: QuerySet[RouteRule]) -> None:
        self._move(request, queryset, +1)

    def _move(self, request: HttpRequest, rows: QuerySet[RouteRule], by: int) -> None:
        chosen = set(rows.values_list("pk", flat=True))
        with transaction.atomic():
            rules = list(RouteRule.objects.all())
            for rule, position in zip(_moved(rules, chosen, by), range(STEP, STEP * len(rules) + 1, STEP), strict=True):
                RouteRule.objects.filter(pk=rule.pk).update(position=position)
        self.message_user(request, f"Moved: {len(chosen)}.", messages.SUCCESS)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[RouteRule]) -> None:
        queryset.update(is_enabled=True)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[RouteRule]) -> None:
        queryset.update(is_enabled=False)

    # --- trying

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.try_view)
        return [path("try/", view, name="providers_routerule_try"), *super().get_urls()]

    def try_view(self, request: HttpRequest) -> HttpResponse:
        """Which rule would this request hit? Nothing is run, and nothing of it is kept."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "POST"):
            return HttpResponseRedirect(reverse(f"{self.admin_site.name}:providers_routerule_try"))
        form = TryForm(request.POST if request.method == "POST" else None)
        outcome = outcome_of(form.cleaned_data) if form.is_bound and form.is_valid() else None
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Which rule would this request hit?",
            "form": form,
            "outcome": outcome,
        }
        return TemplateResponse(request, "admin/providers/routerule/try.html", context)


def _joined(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _moved(rules: list[RouteRule], chosen: set[int], by: int) -> list[RouteRule]:
    """The rules with the chosen ones a place up (-1) or down (+1), as far as there is one."""
    order = rules if by < 0 else rules[::-1]
    for place in range(1, len(order)):
        if order[place].pk in chosen and order[place - 1].pk not in chosen:
            order[place - 1], order[place] = order[place], order[place - 1]
    return order if by < 0 else order[::-1]

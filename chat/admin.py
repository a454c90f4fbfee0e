from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from chat.models import ApiKey

if TYPE_CHECKING:
    KeyModelAdmin = admin.ModelAdmin[ApiKey]
else:
    KeyModelAdmin = admin.ModelAdmin


@admin.register(ApiKey)
class ApiKeyAdmin(KeyModelAdmin):
    """Keys are made by `manage.py create_key`, which shows them once; here they are listed and revoked."""

    list_display = ("name", "owner", "prefix", "created_at", "revoked_at")
    list_filter = ("owner",)
    search_fields = ("name", "prefix")
    readonly_fields = ("prefix", "created_at", "revoked_at")
    actions = ("revoke",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @admin.action(description="Revoke selected keys")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        count = queryset.filter(revoked_at=None).update(revoked_at=timezone.now())
        self.message_user(request, f"{count} keys revoked.")

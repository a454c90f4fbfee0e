"""Two groups for staff who are no superusers: viewers see everything and can do nothing, operators may act.

They are made once, with the tables; what an administrator makes of them afterwards stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps as every_app
from django.apps.registry import Apps
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group, Permission, User
from django.db.models import Q, QuerySet

ROOMS = ("chat", "providers")
VIEWERS, OPERATORS = "viewers", "operators"
# Beside all that viewers may. Erasing conversations, removing providers and managing users is left to superusers.
OPERATORS_MAY = (
    *("add_apikey", "change_apikey", "add_price", "change_price", "delete_price", "stop_turn"),
    *("add_providerrow", "change_providerrow", "add_routerule", "change_routerule", "delete_routerule"),
)

# What a key with the scope `admin` may do: whoever may not do it may not hand himself such a key.
RESERVED = "providers.delete_providerrow"


def may_give(user: AbstractBaseUser | AnonymousUser, scopes: Iterable[str]) -> bool:
    """Whether the user may come by the secret of a key with these scopes."""
    return "admin" not in scopes or (isinstance(user, User) and user.has_perm(RESERVED))


def ensure_roles(*, apps: Apps = every_app, **_: Any) -> None:
    """Make the groups that are not there, if the tables of users are."""
    if "auth" not in apps.all_models:
        return
    for name in (VIEWERS, OPERATORS):
        if not Group.objects.filter(name=name).exists():
            reset_role(name)


def reset_role(name: str) -> None:
    """Give a group the permissions it is meant to have, and no others."""
    Group.objects.get_or_create(name=name)[0].permissions.set(_meant_for(name))


def _meant_for(name: str) -> QuerySet[Permission]:
    meant = Q(codename__startswith="view_")
    if name == OPERATORS:
        meant |= Q(codename__in=OPERATORS_MAY)
    return Permission.objects.filter(meant, content_type__app_label__in=ROOMS)

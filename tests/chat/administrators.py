"""Who looks at the admin's pages in tests, and how they are asked."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session as BrowserSession
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

HOSTILE = "<script>alert(1)</script>\"'&{{ x }}"


def root() -> Client:
    """A superuser's browser."""
    return _browser(User.objects.create_superuser("root", password=None))


def guest(*permissions: str) -> Client:
    """The browser of somebody who may do only this, for example `view_apikey`."""
    user = User.objects.create_user("guest", password=None, is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=permissions, content_type__app_label__in=("chat", "providers"))
    )
    assert user.user_permissions.count() == len(permissions)
    return _browser(user)


def _browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text_of(response: Any) -> str:
    """The page as it is sent."""
    assert response.status_code == 200, response
    return bytes(response.getvalue()).decode()


def words_of(response: Any) -> str:
    """What a reader sees of the page, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text_of(response))).split())


def said(response: Any) -> str:
    """The messages an answer leaves for the next page."""
    return " ".join(str(it) for it in get_messages(response.wsgi_request))


def everything_stored() -> str:
    """Every value of every row of the database, those of browsers' sessions in plain."""
    rows = [str(row) for model in apps.get_models() for row in model._default_manager.values_list()]
    return " ".join([*rows, *(str(it.get_decoded()) for it in BrowserSession.objects.all())])


@contextmanager
def counted_queries() -> Iterator[list[int]]:
    """Holds the number of queries after the block."""
    counted: list[int] = []
    with CaptureQueriesContext(connection) as queries:
        yield counted
        counted.append(len(queries))


def queries_of(client: Client, url: str) -> int:
    client.get(url)  # content types are looked up once per process
    with counted_queries() as counted:
        text_of(client.get(url))
    return counted[0]

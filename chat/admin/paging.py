"""Lists over tables of any size: nothing here counts, or skips, more than some thousand rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property

if TYPE_CHECKING:
    RowPaginator = Paginator[Any]
else:
    RowPaginator = Paginator

MOST_COUNTED = 10_000


class BoundedPaginator(RowPaginator):
    """Has no pages beyond MOST_COUNTED rows: whoever looks for more is better served by a filter."""

    @cached_property
    def _found(self) -> int:
        rows: Any = self.object_list
        found: int = rows.order_by().values("pk")[: MOST_COUNTED + 1].count()
        return found

    @cached_property
    def count(self) -> int:
        return min(self._found, MOST_COUNTED)

    @property
    def has_more(self) -> bool:
        return self._found > MOST_COUNTED


class PageList(ChangeList):
    """A change list that looks up what its rows show besides, for all of a page's rows at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        self.look_up(self.result_list)

    def look_up(self, rows: Sequence[Any]) -> None:
        raise NotImplementedError

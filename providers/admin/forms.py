"""What forms of both kinds of rows share: JSON columns written as words or lines, faults shown where they can be."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import Model

M = TypeVar("M", bound=Model)

if TYPE_CHECKING:

    class BaseForm(forms.ModelForm[M]): ...
else:

    class BaseForm(forms.ModelForm):
        def __class_getitem__(cls, model: type[Model]) -> type[BaseForm]:
            return cls


MAX_TEXT = 50_000


class RowForm(BaseForm[M]):
    """A row's own checks may find fault with a column that this form does not show."""

    def add_error(self, field: str | None, error: Any) -> None:
        if field is None and isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            found: dict[str, list[ValidationError]] = {}
            for column, faults in error.error_dict.items():
                if column in self.fields or column == NON_FIELD_ERRORS:
                    found.setdefault(column, []).extend(faults)
                else:
                    told = [ValidationError(f"{column}: {text}") for it in faults for text in it.messages]
                    found.setdefault(NON_FIELD_ERRORS, []).extend(told)
            error = ValidationError(found)
        super().add_error(field, error)


class TextOfJson(forms.CharField):
    """A JSON column written as text. What it holds of a wrong kind is shown as it is."""

    def __init__(self, *, label: str, help_text: str, rows: int = 2) -> None:
        widget = forms.Textarea(attrs={"rows": rows, "cols": 80})
        super().__init__(label=label, help_text=help_text, required=False, widget=widget, max_length=MAX_TEXT)

    def prepare_value(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        try:
            return self.written(value or self.empty())
        except (TypeError, ValueError, KeyError, AttributeError):
            return str(value)

    def clean(self, value: Any) -> Any:
        return self.read(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.prepare_value(initial).split() != str(data or "").split())

    def empty(self) -> Any:
        return []

    def written(self, value: Any) -> str:
        raise NotImplementedError

    def read(self, text: str) -> Any:
        """Raises ValidationError."""
        raise NotImplementedError


class WordsField(TextOfJson):
    """A list of words with commas between them."""

    def written(self, value: Any) -> str:
        return ", ".join(_words(value))

    def read(self, text: str) -> list[str]:
        words = text.replace("\n", ",").split(",")
        return list(dict.fromkeys(word.strip() for word in words if word.strip()))


def _words(value: object) -> Iterable[str]:
    if not isinstance(value, list):
        raise TypeError
    return [str(it) for it in value]


class AliasesField(TextOfJson):
    """A map, one `alias = model` to a line."""

    def empty(self) -> Any:
        return {}

    def written(self, value: Mapping[str, str]) -> str:
        return "\n".join(f"{alias} = {model}" for alias, model in value.items())

    def read(self, text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            alias, equals, model = (it.strip() for it in line.partition("="))
            if not (alias and equals and model):
                raise ValidationError(f"Each line is `alias = model`, not {line[:60]!r}.")
            found[alias] = model
        return found


class TargetsField(TextOfJson):
    """A rule's targets, one `provider`, `provider/model` or `provider/model weight` to a line."""

    def written(self, value: Any) -> str:
        return "\n".join(shown_target(it) for it in value)

    def read(self, text: str) -> list[dict[str, object]]:
        return [self._target(line) for line in filter(None, map(str.strip, text.splitlines()))]

    def _target(self, line: str) -> dict[str, object]:
        name, _, weight = line.partition(" ")
        provider, _, model = name.partition("/")
        if not (weight.strip() or "1").isdecimal() or len(weight) > 9:
            raise ValidationError(f"Each line is `provider/model weight`, not {line[:60]!r}.")
        return {"provider": provider, "model": model, "weight": int(weight.strip() or "1")}


def shown_target(target: Mapping[str, Any]) -> str:
    name = f"{target['provider']}/{target['model']}" if target["model"] else str(target["provider"])
    return name if target["weight"] == 1 else f"{name} {target['weight']}"


class CommandField(forms.ChoiceField):
    """A list of words, chosen among the command lines the owner allows; one that no longer is among them is shown."""

    def __init__(self, allowed: Iterable[tuple[str, ...]], present: object, *, label: str, help_text: str) -> None:
        lines = [shlex.join(it) for it in allowed]
        now = self.line_of(present)
        choices = [("", "as the settings say"), *((it, it) for it in dict.fromkeys([*lines, *([now] if now else [])]))]
        super().__init__(label=label, help_text=help_text, required=False, choices=choices)

    @staticmethod
    def line_of(value: object) -> str:
        if isinstance(value, list):
            return shlex.join(str(it) for it in value)
        return str(value or "")

    def prepare_value(self, value: Any) -> str:
        return self.line_of(value)

    def clean(self, value: Any) -> list[str]:
        return shlex.split(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.line_of(initial) != str(data or "")

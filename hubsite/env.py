"""Settings from the environment and `.env`, typed and bounded.

A wrong value never stops the start with a traceback: the default is used, the fault is remembered, and the system
checks report it with a hint (see checks.py), which keeps every command but the checks' report from running.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T", int, float)
Network = IPv4Network | IPv6Network

TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One setting that could not be used, and what it should look like."""

    name: str
    problem: str
    hint: str


class Env:
    """Reads typed values; `faults` collects the wrong ones, `names` all that were asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.faults: list[Fault] = []
        self.names: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        self.names.append(name)
        return self._values.get(name, "").strip() or default

    def words(self, name: str, default: str, *, known: tuple[str, ...] = ()) -> list[str]:
        """Words parted by commas, each of `known` if that is given."""
        words = [word.strip() for word in self.text(name, default).split(",") if word.strip()]
        unknown = [word for word in words if known and word not in known]
        if not unknown:
            return words
        self.refuse(name, f"does not know {', '.join(unknown)}", f"Use any of: {', '.join(known)}")
        return default.split(",")

    def choice(self, name: str, default: str, known: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value in known:
            return value
        self.refuse(name, f"can't be {value[:40]!r}", f"Use one of: {', '.join(known)}")
        return default

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name, "on" if default else "off").lower()
        if value in TRUE | FALSE:
            return value in TRUE
        self.refuse(name, f"can't be {value[:40]!r}", "Use on or off")
        return default

    def integer(self, name: str, default: int, *, least: int = 0, most: int = 2**53) -> int:
        return self._number(name, default, int, "a whole number", least, most)

    def number(self, name: str, default: float, *, least: float = 0.0, most: float = 1e9) -> float:
        return self._number(name, default, float, "a number", least, most)

    def path(self, name: str, default: Path, *, base: Path) -> Path:
        """A path; a relative one counts from `base`, never from the working directory."""
        return base / Path(self.text(name) or default).expanduser()

    def url(self, name: str, schemes: tuple[str, ...]) -> str:
        """A URL with one of these schemes, empty if not set. Its text may hold a password, so no fault quotes it."""
        value = self.text(name)
        if not value or (value.split("://")[0] in schemes and "://" in value and _is_url(value)):
            return value
        self.refuse(
            name, "is no URL that can be used", f"Use one that begins with {', '.join(f'{it}://' for it in schemes)}"
        )
        return ""

    def networks(self, name: str) -> list[Network]:
        """IP addresses and networks (CIDR), parted by commas."""
        try:
            return [ip_network(word, strict=False) for word in self.words(name, "")]
        except ValueError as error:
            self.refuse(name, f"can't be used: {error}", "Use addresses such as 10.0.0.0/8,127.0.0.1")
            return []

    def secret(self, name: str, path: Path) -> str:
        """The value, or the secret kept in a file, which is made on the first call."""
        try:
            return self.text(name) or read_or_make_secret(path)
        except OSError as error:
            problem = f"can't be used: {path.parent}: {error.strerror}"
            self.refuse("HUB_DATA_DIR", problem, "Name a folder this user can write to")
            return secrets.token_urlsafe(48)

    def _number(self, name: str, default: T, read: type[T], kind: str, least: T, most: T) -> T:
        value = self.text(name, str(default))
        try:
            number = read(value)
        except ValueError:
            number = None
        if number is not None and least <= number <= most:
            return number
        self.refuse(name, f"can't be {value[:40]!r}", f"Use {kind} of {least} to {most}")
        return default

    def refuse(self, name: str, problem: str, hint: str) -> None:
        """Remember a value that can't be used."""
        self.faults.append(Fault(name, problem, hint))


def _is_url(value: str) -> bool:
    try:
        _ = urlsplit(value).port
    except ValueError:
        return False
    return True


def read_or_make_secret(path: Path) -> str:
    """The secret kept in a file only its owner can read; made on the first call. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _publish(secrets.token_urlsafe(48), path)
    return path.read_text().strip()


def _publish(secret: str, path: Path) -> None:
    """Let the file appear complete: two commands may start on a fresh folder at once, and agree on one secret."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    draft = Path(name)
    with os.fdopen(handle, "w") as file:
        file.write(secret)
    with suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()

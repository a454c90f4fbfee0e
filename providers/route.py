"""The words of routing: what a caller wishes, what a request is like, what was decided and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from providers.events import Needs

if TYPE_CHECKING:
    from providers.events import Usage
    from providers.provider import Provider

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller named. Empty or `auto` leaves it to the hub.

    `fallback` says who else may answer: None leaves it to the key and the rules, False nobody, True the chain, names
    these. `stays_with` is the provider that answered in this session last, `key` an opaque label rules may name.
    """

    provider: str = ""
    model: str = ""
    fallback: bool | tuple[str, ...] | None = None
    stays_with: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Nature:
    """What a request is like; `tokens` estimates its prompt, `languages` are ISO 639-1 codes, likeliest first.

    `media` are the MIME types of what is shown with it, images among them.
    """

    tokens: int = 0
    is_code: bool = False
    languages: tuple[str, ...] = ()
    has_images: bool = False
    has_tools: bool = False
    wants_json: bool = False
    media: tuple[str, ...] = ()

    @property
    def needs(self) -> Needs:
        return Needs(self.has_tools, self.wants_json, self.media)


@dataclass(frozen=True, slots=True)
class Choice:
    """A provider that may take the turn; `model` is None for its default."""

    provider: Provider
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one try: `code` is the error's, empty if it answered. `ms` is how long it took to say so.

    `is_accepted`: the vendor took the prompt. `usage` is what was used by then, where a failed one tells it.
    """

    provider: str
    model: str
    code: str = ""
    ms: int = 0
    is_accepted: bool = False
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Who is asked, in this order, each only if the one before failed before its first token. Never empty.

    `reason` is `named`, `model`, `session`, `rule=NAME` or `score`, or `fallback` where what was named was not to be
    had. `rejected` tells who was passed over, and why.
    """

    choices: tuple[Choice, ...]
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()
    nature: Nature = field(default_factory=Nature)

    @property
    def first(self) -> Choice:
        return self.choices[0]

    @property
    def is_named(self) -> bool:
        """Whether the first choice is the caller's own."""
        return self.reason in ("named", "model")

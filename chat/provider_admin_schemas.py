"""The bodies of /v1/admin/providers. What is null is as the hub's settings say."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from chat.numbers import Whole
from chat.provider_bodies import ProviderBody


class ProviderSettings(BaseModel):
    """What the owner may set. `command` and `binary` name what HUB_ALLOWED_COMMANDS holds, `extra_env` variables of
    HUB_ALLOWED_ENV, whose values stay in the hub's environment. For limits towards the vendor 0 means none."""

    enabled: bool = True
    binary: str = ""
    command: list[str] = []
    extra_env: list[str] = []
    default_model: str = ""
    models: list[str] = []
    aliases: dict[str, str] = {}
    context_tokens: Whole | None = None
    floor: Whole | None = None
    ceiling: Whole | None = None
    memory_mb: Whole | None = None
    rss_mb: Whole | None = None
    nice: Whole | None = None
    cpu_weight: Whole | None = None
    cpu_s: Whole | None = None
    max_processes: Whole | None = None
    memory_max_mb: Whole | None = None
    ready_s: float | None = None
    first_event_s: float | None = None
    silence_s: float | None = None
    turn_s: float | None = None
    requests_per_minute: Whole | None = None
    concurrent_turns: Whole | None = None


class ProviderChange(ProviderSettings):
    """Only what is named is changed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewProvider(ProviderSettings):
    """A name of its own (small letters, digits, - and _), and the adapter it goes by."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    adapter: str


class Workers(BaseModel):
    """Processes of this hub: all there are, those with a turn, and turns that wait for one."""

    live: int
    busy: int
    waiting: int


class AdminProvider(ProviderSettings):
    """A provider as it is set, and as it is in the hub that was asked; `now` is null if it is not there.

    `origin` is `settings` for those of HUB_PROVIDERS. `problem` tells why a row is not gone by.
    """

    name: str
    adapter: str
    origin: Literal["settings", "row"]
    drained: bool
    problem: str
    now: ProviderBody | None
    workers: Workers | None


class AdminProviderList(BaseModel):
    providers: list[AdminProvider]


class ProviderDeleted(BaseModel):
    success: bool
    message: str

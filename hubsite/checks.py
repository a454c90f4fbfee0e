"""System checks of the owner's settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register()
def check_environment(**kwargs: Any) -> list[CheckMessage]:
    """hubsite.E001: a setting has a value it can't have. hubsite.W001: a HUB_ variable that no setting reads."""
    wrong: list[CheckMessage] = [
        Error(f"{fault.name} {fault.problem}.", hint=f"{fault.hint}.", id="hubsite.E001")
        for fault in settings.HUB_ENV_FAULTS
    ]
    unread = sorted(
        name for name in settings.HUB_ENVIRON if name.startswith("HUB_") and name not in settings.HUB_ENV_NAMES
    )
    hint = "It may be misspelt; .env.example lists all settings."
    return wrong + [Warning(f"{name} is no setting of the hub.", hint=hint, id="hubsite.W001") for name in unread]


@register(Tags.security, deploy=True)
def check_proxy(**kwargs: Any) -> list[CheckMessage]:
    """hubsite.W002: the hub has a public address, and does not believe the proxy that must be in front of it."""
    if not settings.HUB_PUBLIC.is_tls or settings.HUB_TRUSTED_PROXIES:
        return []
    hint = "Name the proxy's address; until then all callers count as one, in limits and in the log."
    return [Warning("HUB_PUBLIC_URL is set and HUB_TRUSTED_PROXIES is not.", hint=hint, id="hubsite.W002")]


@register(Tags.security, deploy=True)
def check_trust(**kwargs: Any) -> list[CheckMessage]:
    """hubsite.W003: everybody is believed to be the proxy, so that each caller may say where he comes from."""
    everybody = [str(network) for network in settings.HUB_TRUSTED_PROXIES if network.prefixlen == 0]
    if not everybody:
        return []
    problem = f"HUB_TRUSTED_PROXIES holds everybody ({', '.join(everybody)})."
    hint = "Name the proxy's address or network; now any caller can pass for another one in limits and in the log."
    return [Warning(problem, hint=hint, id="hubsite.W003")]

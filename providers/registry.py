"""All adapters there are: every module of providers.adapters that names an ADAPTER."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from providers import adapters
from providers.adapters.base import Adapter


@cache
def adapters_by_name() -> dict[str, type[Adapter]]:
    """Adapter classes by provider name, in alphabetical order. A new file is enough to add one."""
    names = [module.name for module in pkgutil.iter_modules(adapters.__path__)]
    modules = [importlib.import_module(f"{adapters.__name__}.{name}") for name in names]
    found: list[type[Adapter]] = [module.ADAPTER for module in modules if hasattr(module, "ADAPTER")]
    return {adapter.info.name: adapter for adapter in found}

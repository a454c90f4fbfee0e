"""What the hub says when it is ready: where it is, what it can do, what is missing, and a line that works."""

from __future__ import annotations

import shlex
from pathlib import Path

from hubsite.stores import database_place, redis_place
from providers.engine import Engine
from providers.provider import Provider


def greeting(engine: Engine, *, url: str, local_key: Path) -> str:
    lines = ["", f"LLM MCP Hub is ready at {url}", ""]
    lines += [f"  Page   {url}/   (in a browser: log in as admin, or with the key in {local_key})"]
    lines += [f"  API    {url}/v1   (docs: {url}/v1/docs)", f"  Admin  {url}/admin/"]
    lines += [f"  Redis  {redis_place()}", f"  Data   {database_place()}"]
    lines += ["", "Providers:"]
    lines += [_line(provider) for provider in engine.providers.values()]
    lines += ["", "Try it:", _curl(engine, url, local_key), ""]
    return "\n".join(lines)


def _line(provider: Provider) -> str:
    status = provider.status
    state = status.state.replace("_", " ")
    tested = provider.info.tested_version
    version = provider.version or "-"
    if provider.version and tested and provider.version != tested:
        version += f" (tested with {tested})"
    mend = f"   to mend it: {status.mend}" if status.mend else ""
    return f"  {provider.name:8} {version:12} {state}{mend}"


def _curl(engine: Engine, url: str, local_key: Path) -> str:
    providers = engine.providers.values()
    ready = [it.name for it in providers if it.status.is_serving and not it.info.by_name_only]
    demo = [it.name for it in providers if it.info.by_name_only]
    name = (ready or demo or ["auto"])[0]
    body = f'{{"provider": "{name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f'  curl {url}/v1/chat/completions -H "Authorization: Bearer $(cat {shlex.quote(str(local_key))})" \\\n'
        f"    -H 'Content-Type: application/json' -d '{body}'"
    )

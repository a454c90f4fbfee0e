"""Balancers in front of hubs, configured by the files of deploy/ with nothing changed but names, ports and TLS."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from tests.hub import ROOT, free_port

DEPLOY = ROOT / "deploy"
READY_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
NGINX_PLACES = ("/usr/sbin", "/usr/local/sbin")

NGINX_MAIN = """
{user}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], *NGINX_PLACES]))


def find_caddy() -> str | None:
    return shutil.which("caddy")


def nginx_site(port: int, upstreams: Sequence[str]) -> str:
    """deploy/nginx.conf for these hubs, on a loopback port without TLS."""
    site = (DEPLOY / "nginx.conf").read_text()
    servers = [f"server {upstream} max_fails=0;" for upstream in upstreams]
    site = re.sub(r"(?:server 127\.0\.0\.1:\d+ [^;]*;\s*)+", "\n    ".join([*servers, ""]), site)
    site = re.sub(r"^ *ssl_certificate.*\n", "", site, flags=re.MULTILINE)
    site = site.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port};")
    return site.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")


@contextlib.contextmanager
def running_nginx(program: str, folder: Path, upstreams: Sequence[str]) -> Iterator[str]:
    """The address of an nginx in front of `host:port`s."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "site.conf").write_text(nginx_site(port, upstreams))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder, user=user))
    argv = [program, "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(folder / "nginx.conf")]
    with _running(argv, folder, f"http://127.0.0.1:{port}") as url:
        yield url


@contextlib.contextmanager
def running_caddy(program: str, folder: Path, upstreams: Sequence[str]) -> Iterator[str]:
    """The address of a Caddy in front of `host:port`s."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{free_port()}"
    # Its own control port would be the same for all of them.
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + (DEPLOY / "Caddyfile").read_text())
    argv = [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    env = {"HUB_SITE": url, "HUB_UPSTREAMS": " ".join(upstreams), "HOME": str(folder)}
    with _running(argv, folder, url, env) as started:
        yield started


@contextlib.contextmanager
def _running(argv: list[str], folder: Path, url: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    with (folder / "balancer.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(process, folder, url)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path, url: str) -> None:
    """Until a hub's own answer comes through."""
    ends_at = time.monotonic() + READY_TIMEOUT_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > ends_at:
            logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
            raise AssertionError(f"{process.args!r} did not get ready:\n{logs}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health/live").status_code == 200
    return False

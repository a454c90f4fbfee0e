"""The files of deploy/: what can be checked without a Docker engine is, and what they run is run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
import yaml
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from hubsite.private_redis import find_server
from tests.asking import CHAT, WAIT_S, answer_of, ask
from tests.balancers import DEPLOY, find_caddy, find_nginx, nginx_site
from tests.hub import ROOT, clean_env, free_port, running_hub
from tests.programs import lacking

COMPOSE_FILES = ("compose.yaml", "compose.two-nodes.yaml")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UID = 10_001
READY_TIMEOUT_S = 60
# A prefix of the file system ($1) below a folder nobody else may enter ($2), seen by everybody.
VIEW = """
mount --bind "$1" "$3"
mount -t tmpfs -o mode=0755 none "$2"
mkdir -p "$1"
mount --move "$3" "$1"
shift 3
exec "$@"
"""


def compose(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / name).read_text()))


def services() -> list[Any]:
    """Every service of both files, named for the test's output."""
    return [
        pytest.param(service, id=f"{name.removesuffix('.yaml')}-{called}")
        for name in COMPOSE_FILES
        for called, service in compose(name)["services"].items()
    ]


def instruction(word: str) -> str:
    """The last one of its kind in the Dockerfile, its continued lines in one."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(word + " ")][-1]


# --- compose ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_has_no_password_of_its_own(name: str) -> None:
    """Every secret is asked for, and the start fails without it."""
    text = (DEPLOY / name).read_text()
    for secret in re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)([^}]*)\}", text):
        assert secret[1].startswith(":?"), secret
    assert not re.search(r"(?i)password: +[^\s$]", text)
    asked = re.findall(r"^(\w+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE)
    assert {given for _, given in asked} == {""}
    assert set(re.findall(r"\$\{(\w+)", text)) <= {called for called, _ in asked}


@pytest.mark.parametrize("service", services())
def test_services_are_watched_and_shut_to_others(service: dict[str, Any]) -> None:
    has_own_check = "caddy" not in service["image"] and service["image"] != "llm-mcp-hub:local"
    assert "healthcheck" in service or not has_own_check
    assert service["restart"] == "unless-stopped"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:") or "caddy" in service["image"]
    if service["image"] == "llm-mcp-hub:local":
        assert service["cap_drop"] == ["ALL"]
        assert {it["condition"] for it in service["depends_on"].values()} == {"service_healthy"}
        env = service["environment"]
        needed_s = float(env.get("HUB_DRAIN_S", 0)) + float(env["HUB_SHUTDOWN_GRACE_S"])
        assert float(service["stop_grace_period"].removesuffix("s")) > needed_s


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_redis_wants_its_password_and_shows_it_to_nobody(name: str, tmp_path: Path) -> None:
    """What its container runs, with the private server's program in the place of the image's."""
    (tmp_path / "valkey-server").symlink_to(find_server())
    port = free_port()
    *shell, script = compose(name)["services"]["redis"]["command"]
    script = script.replace("$$", "$").replace("valkey-server -", f"valkey-server - --port {port} --bind 127.0.0.1")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REDISCLI_AUTH": "wanted"}
    with subprocess.Popen([*shell, script], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            retry = Retry(ConstantBackoff(0.1), 50)
            known = redis.Redis(port=port, password="wanted", retry=retry, decode_responses=True)
            assert known.ping()
            assert known.config_get("appendonly") == {"appendonly": "yes"}
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port).ping()
            assert "wanted" not in " ".join(psutil.Process(server.pid).cmdline())
        finally:
            server.terminate()
    assert server.returncode == 0


def test_balancers_network_is_the_one_that_is_trusted() -> None:
    two = compose("compose.two-nodes.yaml")
    subnet = two["networks"]["inside"]["ipam"]["config"][0]["subnet"]
    assert two["services"]["hub-1"]["environment"]["HUB_TRUSTED_PROXIES"] == subnet
    assert set(two["services"]["caddy"]["environment"]["HUB_UPSTREAMS"].split()) == {"hub-1:8000", "hub-2:8000"}


# --- the image -------------------------------------------------------------------------------------------------------


def copied() -> list[str]:
    return re.findall(r"^COPY (\w[\w.]*) ", DOCKERFILE, re.MULTILINE)


def test_image_holds_all_of_the_source_and_nothing_else() -> None:
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["build-backend"]["module-name"]
    assert {*rooms, "manage.py", "templates"} <= set(copied())
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == {
        *copied(),
        *("uv.lock", "README.md"),
    }
    assert instruction("USER") == f"{UID}:{UID}"
    assert f"--uid {UID}" in DOCKERFILE


def test_shell_of_the_dockerfile_is_whole() -> None:
    """Each RUN, with its lines put together as Docker does it."""
    joined = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    runs = [line.removeprefix("RUN ") for line in joined.splitlines() if line.startswith("RUN ")]
    assert len(runs) == DOCKERFILE.count("\nRUN ")
    for run in runs:
        assert subprocess.run(["sh", "-n", "-c", run], capture_output=True, text=True).stderr == ""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /app as the Dockerfile fills it, which its user can read and not write."""
    app = tmp_path_factory.mktemp("image") / "app"
    app.mkdir()
    for name in {*copied(), "manage.py"}:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, app / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, app / name)
    open_to_all(app)
    return app


@pytest.fixture(scope="module")
def as_user(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What makes a command run as the image's user, where the tests are root.

    An interpreter in root's own home is put there again, in a view of the file system that only the command has.
    """
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        lacking("setpriv", "setpriv and unshare are not installed; Debian: apt-get install util-linux")
    user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    prefix = Path(sys.base_prefix)
    shut = [it for it in prefix.parents if not it.stat().st_mode & 0o001]
    if not shut:
        return user
    view = [
        "unshare",
        "--mount",
        "sh",
        "-ec",
        VIEW,
        "sh",
        str(prefix),
        str(shut[-1]),
        str(tmp_path_factory.mktemp("view")),
    ]
    if subprocess.run([*view, "true"], capture_output=True).returncode != 0:
        lacking("unshare", "this Python lies in root's home, and no view of the file system can be made that shows it")
    return [*view, *user]


def open_to_all(folder: Path) -> None:
    """Let anybody reach and read it, as in an image; the tests' folders are their owner's alone."""
    for parent in folder.parents:
        if parent.is_relative_to(tempfile.gettempdir()) and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(["chmod", "-R", "a+rX,go-w", str(folder)], check=True)


def in_image(command: str) -> list[str]:
    """A command of the Dockerfile in its JSON form, with this environment's interpreter."""
    argv = list(json.loads(command))
    if argv[:2] == ["tini", "--"] and shutil.which("tini") is None:
        argv = argv[2:]
    return [sys.executable if word == "python" else word for word in argv]


@contextlib.contextmanager
def running_image(
    app: Path, data: Path, as_user: list[str]
) -> Iterator[tuple[subprocess.Popen[bytes], str, dict[str, str]]]:
    """What the container would run, on a free port: its process, address and environment."""
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, UID, UID)
    port = free_port()
    said = {"HUB_DATA_DIR": str(data / "hub"), "HUB_PROVIDERS": "echo", "PYTHONDONTWRITEBYTECODE": "1"}
    env = clean_env(data, said)
    command = [*as_user, *in_image(instruction("ENTRYPOINT")), *json.loads(instruction("CMD"))]
    command = [word.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for word in command]
    with (data.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=app, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process, f"http://127.0.0.1:{port}", env
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S * 2)


def until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends_at = time.monotonic() + READY_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends_at, log.read_text()
        time.sleep(0.05)


def test_what_the_image_runs_serves_as_a_user_without_rights(image: Path, as_user: list[str], tmp_path: Path) -> None:
    """On a fresh volume, with the source read-only; healthy by its own check; gone with SIGTERM to process 1."""
    open_to_all(tmp_path)
    data = tmp_path / "data"
    with running_image(image, data, as_user) as (process, url, env):
        until_ready(process, url, tmp_path / "log")
        key = (data / "hub" / "local.key").read_text().strip()
        asked = httpx.post(url + CHAT, json=ask("Hi"), headers={"Authorization": f"Bearer {key}"}, timeout=WAIT_S)
        assert answer_of(asked) == "Hi"
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if os.geteuid() == 0:
            assert {it.uids().real for it in family} == {UID}
            assert {path.lstat().st_uid for path in (data / "hub").rglob("*")} == {UID}
        check = [*as_user, *in_image(instruction("HEALTHCHECK").split("CMD", 1)[1].strip())]
        assert run_check(check, url, image, env) == 0
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert not psutil.wait_procs(family, timeout=WAIT_S)[1]
    assert run_check(check, url, image, env) != 0


def run_check(argv: list[str], url: str, app: Path, env: dict[str, str]) -> int:
    argv = [word.replace("http://127.0.0.1:8000", url) for word in argv]
    return subprocess.run(argv, cwd=app, env=env, capture_output=True, timeout=WAIT_S).returncode


def test_nodes_are_healthy_when_they_are_ready(http: httpx.Client) -> None:
    """The check of the two nodes, run against a hub and against nobody."""
    command = compose("compose.two-nodes.yaml")["services"]["hub-1"]["healthcheck"]["test"]
    assert command[0] == "CMD"
    for url, is_healthy in ((str(http.base_url), True), (f"http://127.0.0.1:{free_port()}", False)):
        argv = [word.replace("http://127.0.0.1:8000", url.rstrip("/")) for word in command[1:]]
        ran = subprocess.run([sys.executable, *argv[1:]], capture_output=True, timeout=WAIT_S)
        assert (ran.returncode == 0) is is_healthy


# --- systemd and the balancers ---------------------------------------------------------------------------------------


def unit() -> dict[str, str]:
    lines = (DEPLOY / "llm-mcp-hub.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_systemd_unit_is_understood_and_exposes_little(tmp_path: Path) -> None:
    if (program := shutil.which("systemd-analyze")) is None:
        lacking("systemd", "systemd-analyze is not installed; Debian: apt-get install systemd")
    text = (DEPLOY / "llm-mcp-hub.service").read_text()
    # The interpreter of an installation that is not here.
    there = tmp_path / "llm-mcp-hub.service"
    there.write_text(text.replace("/opt/llm-mcp-hub/.venv/bin/python", sys.executable))
    verified = subprocess.run([program, "verify", "--man=no", str(there)], capture_output=True, text=True, timeout=60)
    told = [line for line in verified.stderr.splitlines() if "llm-mcp-hub" in line]
    assert told == []
    ran = subprocess.run(
        [program, "security", "--offline=true", "--threshold=25", str(there)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout[-300:]


def test_systemd_gives_the_hub_its_cgroups_and_the_time_to_end() -> None:
    found = unit()
    assert found["Delegate"] == "yes"
    assert "ProtectControlGroups" not in found
    assert "MemoryDenyWriteExecute" not in found
    assert found["KillMode"] == "mixed"
    assert float(found["TimeoutStopSec"]) > 8 + 60  # the drain and the grace of the example with two nodes
    assert shlex.split(found["ExecStart"])[1:3] == ["manage.py", "hub"]


def test_commands_beside_the_unit_read_what_it_reads() -> None:
    """Else create_key and backup work on another database than the hub."""
    page = (ROOT / "docs" / "operations.md").read_text()
    shown = re.search(r"systemd-run (.*?)\"\$@\"", page, re.DOTALL)
    assert shown
    words = shlex.split(shown[1].replace("\\\n", " "))
    lines = (DEPLOY / "llm-mcp-hub.service").read_text().splitlines()
    environment = {line.partition("=")[2] for line in lines if line.startswith("Environment=")}
    assert {name for name, flag in zip(words[1:], words, strict=False) if flag == "-E"} == {
        it for it in environment if it.startswith(("HOME=", "HUB_DATA_DIR="))
    }
    found = unit()
    assert f"EnvironmentFile={found['EnvironmentFile']}" in words
    assert f"--uid={found['User']}" in words
    assert f"--working-directory={found['WorkingDirectory']}" in words
    assert words[-2:] == shlex.split(found["ExecStart"])[:2]


def test_python_that_uv_fetches_is_put_where_the_service_sees_it() -> None:
    text = (DEPLOY / "llm-mcp-hub.service").read_text()
    folder = re.search(r"UV_PYTHON_INSTALL_DIR=(\S+) uv sync", text)
    assert unit()["ProtectHome"] == "yes"
    assert folder
    assert not folder[1].startswith(("/root", "/home", "/run/user"))


def test_restart_of_two_nodes_replaces_a_container_whose_image_is_the_same() -> None:
    """`up` leaves one alone in which nothing has changed."""
    header = (DEPLOY / "compose.two-nodes.yaml").read_text().partition("\nname:")[0]
    (restart,) = [line for line in header.splitlines() if "--no-deps" in line]
    assert "--force-recreate" in restart
    assert "--wait" in restart


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    if (program := find_nginx()) is None:
        lacking("nginx", "nginx is not installed; Debian: apt-get install nginx-light")
    (tmp_path / "site.conf").write_text(nginx_site(free_port(), ["127.0.0.1:1", "127.0.0.1:2"]))
    main = "events {} pid " + str(tmp_path / "pid") + "; http { include " + str(tmp_path / "site.conf") + "; }"
    (tmp_path / "nginx.conf").write_text(main)
    argv = [program, "-t", "-p", str(tmp_path), "-e", str(tmp_path / "log"), "-c", str(tmp_path / "nginx.conf")]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S)
    assert ran.returncode == 0, ran.stderr


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    if (program := find_caddy()) is None:
        lacking("caddy", "caddy is not installed; Debian: apt-get install caddy")
    env = clean_env(tmp_path, {"HUB_SITE": "https://hub.example.com", "HUB_UPSTREAMS": "hub-1:8000 hub-2:8000"})
    argv = [program, "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=WAIT_S)
    assert ran.returncode == 0, ran.stderr


# --- settings --------------------------------------------------------------------------------------------------------


def documented_settings() -> dict[str, str]:
    """Those that docs/operations.md gives for a hub behind a proxy with TLS."""
    page = (ROOT / "docs" / "operations.md").read_text()
    return dict(re.findall(r"^(HUB_\w+)=(\S+)", page, re.MULTILINE))


def checked(tmp_path: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), **settings})
    argv = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_documented_settings_are_clean_for_deployment(tmp_path: Path) -> None:
    settings = documented_settings()
    assert {"HUB_PUBLIC_URL", "HUB_TRUSTED_PROXIES"} <= set(settings)
    ran = checked(tmp_path, settings)
    assert ran.returncode == 0, ran.stderr
    assert "hubsite.W002" in checked(tmp_path, {"HUB_PUBLIC_URL": settings["HUB_PUBLIC_URL"]}).stderr
    assert "security.W012" in checked(tmp_path, {}).stderr


def test_proxies_that_are_everybody_are_warned_of(tmp_path: Path) -> None:
    """Each caller could say where he comes from, past every limit of an address."""
    settings = documented_settings()
    for everybody in ("0.0.0.0/0", "10.0.0.0/8,::/0"):
        ran = checked(tmp_path, {**settings, "HUB_TRUSTED_PROXIES": everybody})
        assert ran.returncode == 1
        assert "hubsite.W003" in ran.stderr
        assert everybody.split(",")[-1] in ran.stderr


def test_with_a_public_address_pages_want_tls_and_the_api_takes_its_name(tmp_path: Path) -> None:
    with running_hub(tmp_path, env={"HUB_PROVIDERS": "echo", **documented_settings()}) as hub:
        named = {"Host": "hub.example.com"}
        with httpx.Client(base_url=hub.url, headers=named, timeout=WAIT_S) as client:
            plain = client.get("/admin/")
            assert (plain.status_code, plain.headers["Location"]) == (301, "https://hub.example.com/admin/")
            page = client.get("/admin/login/", headers={"X-Forwarded-Proto": "https"})
            assert page.status_code in (200, 302)
            assert int(page.headers["Strict-Transport-Security"].split("=")[1]) > 0
            if page.is_redirect:
                page = client.get(page.headers["Location"], headers={"X-Forwarded-Proto": "https"})
            cookie = page.headers["Set-Cookie"]
            assert "csrftoken=" in cookie
            assert "Secure" in cookie
            assert client.post(CHAT, json=ask("Hi"), headers=hub.headers).status_code == 200
            assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400

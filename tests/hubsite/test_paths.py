"""What is where: paths, methods and hosts, each answered in the shape a client expects."""

from __future__ import annotations

import re
import socket

import httpx
import pytest

from tests.asking import CHAT, error_of
from tests.hub import HubProcess

WAIT_S = 5


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/nothing", "/favicon.ico", "/v1", "/v1/", "/v1x", "/v1/nothing", "/v1/chat/completions/", "/v1//models"],
)
def test_unknown_path_is_a_404_in_openais_shape(http: httpx.Client, method: str, path: str) -> None:
    response = http.request(method, path)
    assert response.status_code == 404
    error = error_of(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")


@pytest.mark.parametrize(
    "path", ["/v1/models/%00", "/v1/models/%ff", "/v1/models/..%2f..%2fetc", "/v1/models/" + "x" * 5_000]
)
def test_odd_path_is_a_404(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 404
    assert len(error_of(response)["message"]) < 300


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((CHAT, "POST"), ("/v1/models", "GET"), ("/v1/models/echo", "GET"), ("/v1/providers", "GET")),
        *(("/health", "GET"), ("/", "GET")),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "NONSENSE"])
def test_wrong_method_is_a_405_that_names_the_right_one(
    http: httpx.Client, path: str, allowed: str, method: str
) -> None:
    response = http.request(method, path)
    if method == allowed:
        assert response.status_code in (200, 400)
        return
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert allowed in response.headers["Allow"]


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/v1/models", 405), ("/v1/nothing", 404), ("/admin/login/", 200)]
)
def test_head_has_no_body_and_leaves_the_connection_usable(http: httpx.Client, path: str, status: int) -> None:
    for _ in range(2):
        response = http.head(path)
        assert (response.status_code, response.content) == (status, b"")
    assert http.get("/health").json()["status"] == "healthy"


def test_health_needs_no_key_and_has_the_specified_shape(hub: HubProcess) -> None:
    response = httpx.get(f"{hub.url}/health")
    assert response.status_code == 200
    body = response.json()
    assert body.pop("states").keys() == {"echo"}  # tests/hubsite/test_health.py looks at those
    assert body == {
        "status": "healthy",
        "version": "0.1.0",
        "providers": {"echo": "up"},
        "redis": "up",
        "database": "up",
    }


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "a b", "", "[::1", "127.0.0.1:x"])
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/admin/", "/nothing"])
def test_other_host_is_refused_everywhere(http: httpx.Client, path: str, host: str) -> None:
    """A page of another site must not reach a hub on loopback through a name of its own."""
    response = http.get(path, headers={"Host": host})
    assert response.status_code == 400
    assert error_of(response)["code"] == "bad_request"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:8000", "LOCALHOST"])
def test_this_machine_is_answered_by_any_of_its_names(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"Host": host}).status_code == 200


def raw_answer(hub: HubProcess, request: bytes) -> bytes:
    """What the hub says to bytes that no HTTP client would send."""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT_S) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
            if b"\r\n\r\n" in answer and b"100 Continue" not in answer:
                return answer
        return answer


RAW = {
    "header name": b"GET /health HTTP/1.1\r\nHost: localhost\r\nBad(name: x\r\n\r\n",
    "header value": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n",
    "path beyond ASCII": b"GET /v1/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "query beyond ASCII": b"GET /health?\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "length": b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length and chunks": b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "huge header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * 100_000 + b"\r\n\r\n",
    "huge path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: x\r\n" * 10_000 + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("what", RAW)
def test_request_that_is_no_http_is_refused_and_the_next_one_answered(
    hub: HubProcess, http: httpx.Client, what: str
) -> None:
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", raw_answer(hub, RAW[what]))
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("what", ["header name", "header value", "path beyond ASCII", "query beyond ASCII"])
def test_request_refused_by_the_server_itself_has_the_usual_shape(hub: HubProcess, what: str) -> None:
    answer = raw_answer(hub, RAW[what])
    assert b"application/json" in answer
    assert b'{"error":{"message":"' in answer


def test_websocket_is_refused_until_there_is_one(hub: HubProcess) -> None:
    answer = raw_answer(
        hub,
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    assert re.match(rb"HTTP/1\.1 40[34] ", answer)


def test_openapi_document_lists_the_errors_of_every_operation(http: httpx.Client) -> None:
    document = http.get("/v1/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == 23
    for operation in operations:
        told = set(operation["responses"])
        assert told & {"200", "201"}
        assert {"400", "401", "403", "404", "405", "409", "413", "429", "500", "502", "503", "504"} <= told
        schema = operation["responses"]["401"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith("/ErrorBody")
        assert operation["security"]
    assert "bearer" in str(document["components"]["securitySchemes"]).lower()


def test_paths_in_the_openapi_document_are_those_that_answer(http: httpx.Client) -> None:
    document = http.get("/v1/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/providers",
        "/v1/providers/{name}",
        "/v1/responses",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/responses/{response_id}/input_items",
        "/v1/route",
        "/v1/sessions",
        "/v1/sessions/{session_id}",
        "/v1/admin/providers",
        "/v1/admin/providers/{name}",
        *(f"/v1/admin/providers/{{name}}/{act}" for act in ("restart", "drain", "undrain", "clear-cooldown")),
    }


@pytest.mark.parametrize("path", ["/v1/docs", "/admin/login/?next=/admin/"])
def test_page_comes_with_its_styles(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    assert page.headers["content-type"].startswith("text/html")
    styles = re.findall(r'href="(/static/[^"]+\.css)"', page.text)
    assert styles
    for style in styles:
        response = http.get(style)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("path", ["/static/../manage.py", "/static/%2e%2e/manage.py", "/static/nothing.css"])
def test_static_folder_gives_out_nothing_else(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


def test_admin_lets_the_made_user_in_and_nobody_else(hub: HubProcess) -> None:
    password = (hub.data_dir / "admin.password").read_text().strip()
    with httpx.Client(base_url=hub.url, follow_redirects=True) as client:
        assert "/admin/login/" in str(client.get("/admin/").url)
        for attempt, is_right in (("wrong", False), (password, True)):
            token = client.cookies["csrftoken"]
            form = {"username": "admin", "password": attempt, "csrfmiddlewaretoken": token}
            page = client.post("/admin/login/?next=/admin/", data=form)
            assert ("Log out" in page.text) is is_right
        assert client.get("/admin/chat/apikey/").status_code == 200
        assert client.get("/admin/chat/apikey/add/").status_code == 200

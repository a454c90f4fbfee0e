"""Which vendor a path belongs to, and what it asks for."""

import re

from tests.vendor_api.record import Kind, Vendor

_GEMINI_CALL = re.compile(r"/v1(?:beta1?|alpha)?/(?:.+/)?models/(?P<model>[^/:]+):(?P<method>\w+)")
_GEMINI_MODELS = re.compile(r"/v1(?:beta1?|alpha)/models(?:/[^/:]+)?")
_ANTHROPIC_MODELS = re.compile(r"/v1/models(?:/[^/:]+)?")


def classify(method: str, path: str) -> tuple[Vendor, Kind]:
    if call := _GEMINI_CALL.fullmatch(path):
        kinds: dict[str, Kind] = {"generateContent": "chat", "streamGenerateContent": "chat", "countTokens": "count"}
        return "gemini", kinds.get(call["method"], "other") if method == "POST" else "other"
    match method, path:
        case "POST", "/v1/messages":
            return "anthropic", "chat"
        case "POST", "/v1/messages/count_tokens":
            return "anthropic", "count"
        case "POST", "/v1/responses":
            return "openai", "chat"
        case "POST", "/v1/responses/input_tokens":
            return "openai", "count"
    if path.startswith("/backend-api/"):
        return "openai", "account"
    if method == "GET" and _ANTHROPIC_MODELS.fullmatch(path):
        return "anthropic", "models"
    if method == "GET" and _GEMINI_MODELS.fullmatch(path):
        return "gemini", "models"
    return "", "other"


def gemini_call(path: str) -> tuple[str, bool]:
    call = _GEMINI_CALL.fullmatch(path)
    return (call["model"], call["method"] == "streamGenerateContent") if call else ("", False)

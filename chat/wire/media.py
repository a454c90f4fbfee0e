"""Images and documents of a request: data URLs, told apart by what they hold, bounded in size and number."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from chat.errors import BadRequest, Unsupported
from providers.events import Media

DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w-]+=[^;,]*)*);base64,", re.ASCII)
HEAD_CHARS = 64
# Base64 says three bytes with four characters.
CHARS_PER_BYTE = 4 / 3


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """How much one file may hold, in bytes, and how many a request may have."""

    max_bytes: int = 10 * 1024 * 1024
    max_count: int = 20


DEFAULT_LIMITS = MediaLimits()


def read_media(url: str, limits: MediaLimits, where: str, *, name: str = "") -> Media:
    """A data URL's file. Its type is told by its content. Raises BadRequest, Unsupported."""
    if url[:5].lower() != "data:":
        raise Unsupported(
            "files are taken as data URLs (data:image/png;base64,...); the hub's owner may allow http addresses with "
            "HUB_REMOTE_MEDIA",
            param=where,
        )
    head = DATA_URL.match(url)
    if head is None:
        raise BadRequest("a data URL begins with data:TYPE;base64,", param=where)
    data = "".join(url[head.end() :].split())
    if len(data) > limits.max_bytes * CHARS_PER_BYTE + 4:
        raise BadRequest(f"a file may hold {limits.max_bytes} bytes (HUB_MEDIA_MAX_BYTES)", param=where)
    return Media(_type_of(data, where), data, name[:200])


def _type_of(data: str, where: str) -> str:
    try:
        base64.b64decode(data, validate=True)
        head = base64.b64decode(data[:HEAD_CHARS])
    except binascii.Error as exc:
        raise BadRequest("the data URL's content is no base64", param=where) from exc
    found = sniff(head)
    if not found:
        raise BadRequest("a file is an image (PNG, JPEG, GIF, WebP, HEIC) or a PDF, and this is none", param=where)
    return found


def sniff(head: bytes) -> str:
    """The MIME type of a file by its first bytes; empty if it is none of those models are shown."""
    starts = {
        b"\x89PNG\r\n\x1a\n": "image/png",
        b"\xff\xd8\xff": "image/jpeg",
        b"GIF87a": "image/gif",
        b"GIF89a": "image/gif",
        b"%PDF-": "application/pdf",
    }
    for start, mime_type in starts.items():
        if head.startswith(start):
            return mime_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return {b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heif"}.get(head[8:12], "")
    return ""


def check_count(count: int, limits: MediaLimits) -> None:
    """Raises BadRequest for a request with too many files."""
    if count > limits.max_count:
        raise BadRequest(f"a request may have {limits.max_count} files (HUB_MEDIA_MAX_COUNT)", param="messages")

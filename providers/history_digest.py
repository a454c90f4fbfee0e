"""The fingerprint of a conversation, by which a process that still holds it is recognised."""

from __future__ import annotations

from hashlib import sha256

from providers.events import Message, Turn


def history_digest(turn: Turn) -> bytes:
    """What a process has to hold for this turn to be the next: all messages but the last, said with its model.

    The model counts because a CLI told of another one in the middle may put words of its own about that between the
    messages.
    """
    return extended(sha256(b"model " + (turn.model or "").encode()).digest(), *turn.messages[:-1])


def extended(digest: bytes, *messages: Message) -> bytes:
    """The digest of a conversation with these messages added."""
    for message in messages:
        chained = sha256(digest)
        chained.update(message.role.ljust(10).encode())
        chained.update(message.text.encode(errors="surrogatepass"))
        for block in message.blocks if not message.is_plain else ():
            if not isinstance(block, str):
                chained.update(repr(block).encode(errors="surrogatepass"))
        digest = chained.digest()
    return digest

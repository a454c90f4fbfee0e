"""Where the WebSocket is."""

from __future__ import annotations

from chat.consumers import ChatConsumer

PATHS = ("/ws/chat/", "/ws/chat")

chat_socket = ChatConsumer.as_asgi()

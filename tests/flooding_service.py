"""A WebSocket service that answers every question with chunks at a fixed rate, faster than any model, to load a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

_WORDS = ("one ", "more ", "word, ", "**bold** ", "and ", "on ", "it ", "goes. ")


@contextmanager
def flooding(*, per_second: int, chunks: int, words_per_line: int) -> Iterator[str]:
    """Yield the address of such a service on loopback; each answer has ``chunks`` chunks, ``words_per_line`` to a line."""

    def handle(socket: ServerConnection) -> None:
        try:
            for message in socket:
                _answer(socket, json.loads(message)["request_id"])
        except ConnectionClosed:
            return

    def _answer(socket: ServerConnection, request_id: str) -> None:
        started = time.monotonic()
        for seq in range(chunks):
            text = "\n" if seq % words_per_line == words_per_line - 1 else _WORDS[seq % len(_WORDS)]
            time.sleep(max(0.0, started + seq / per_second - time.monotonic()))
            socket.send(json.dumps({"type": "chunk", "text": text, "request_id": request_id, "seq": seq}))
        elapsed_ms = (time.monotonic() - started) * 1000
        metadata = {"first_token_ms": 0, "total_ms": elapsed_ms, "tokens": chunks, "source": "model", "intent": "other"}
        socket.send(json.dumps({"type": "done", "metadata": metadata, "request_id": request_id, "seq": chunks}))

    server: Server
    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, name="flood")
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()

"""A TCP relay on 127.0.0.1 that can be cut, or pointed at another port: the network between a client and its server."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Relay:
    """Passes bytes on, both ways, from its own port to `target`."""

    def __init__(self, target: int) -> None:
        self._target: int | None = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        with self._lock:
            self._target = None
            for end in self._open:
                _close(end)
            self._open = []

    def point_to(self, target: int) -> None:
        """Close all connections; new ones go to `target`."""
        self.cut()
        with self._lock:
            self._target = target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._listener)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        with self._lock:
            try:
                if self._target is None:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                _close(client)
                return
            self._open += [client, server]
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()

"""One gateway process: reads its topics and answers over HTTP until it is told to end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Final

import structlog
import uvicorn
import uvloop
from aiokafka.errors import KafkaError

from gateway import api
from gateway.access import loopback
from gateway.feedback import Feedback
from gateway.follow import follow
from gateway.service import Service
from streaming.errors import UserError
from streaming.settings import Settings

# What the kernel keeps for a reader that sleeps is stale when it wakes: 23 frames instead of 87, measured. Accepted sockets inherit it.
SEND_BUFFER_BYTES: Final = 32 * 1024
BACKLOG: Final = 512
# Streams end by themselves when the process closes; what has not by then is cut off.
GRACE_S: Final = 3
CLOSE_S: Final = 2.0

log = structlog.stdlib.get_logger("trendcast")


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status. Raises UserError where something outside the program is wrong."""
    token = settings.gateway_secret
    if token is None and not loopback(settings.gateway_host):
        raise UserError(
            f"anybody could read and write at {settings.gateway_host}: set TRENDCAST_GATEWAY_TOKEN (or …_TOKEN_FILE), or serve on 127.0.0.1"
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, token))


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would raise them again after its end, and the process would end as if it had been killed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings, token: str | None) -> int:
    service, feedback = Service(settings), Feedback(settings)
    async with contextlib.AsyncExitStack() as stack:
        listening = stack.enter_context(_listen(settings.gateway_host, settings.gateway_port))
        await stack.enter_async_context(feedback)
        server = _Server(
            uvicorn.Config(
                api.create(service, feedback, token),
                access_log=False,
                log_config=None,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=GRACE_S,
            )
        )

        def end() -> None:
            service.closing = True
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end)
        following = asyncio.create_task(follow(service))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        log.info("gateway.starting", namespace=settings.namespace, address=address(settings.gateway_host, listening.getsockname()[1]))
        await asyncio.wait({following, serving}, return_when=asyncio.FIRST_COMPLETED)
        end()
        failed = following.exception() if following.done() else None
        following.cancel()
        await asyncio.wait({following, serving}, timeout=GRACE_S + CLOSE_S)
    if isinstance(failed, KafkaError):
        log.error("gateway.failed", reason=f"{type(failed).__name__}: {failed}")
        return 1
    if failed is not None:
        raise failed
    log.info("gateway.ended")
    return 0


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page.

    >>> address("0.0.0.0", 8080), address("::1", 80)
    ('http://127.0.0.1:8080/', 'http://[::1]:80/')
    """
    reachable = "127.0.0.1" if host == "0.0.0.0" else host
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}/"


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError where the address cannot be used."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"{host!r} is no address ({error.strerror}); set TRENDCAST_GATEWAY_HOST") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listening.bind(place)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise UserError(
            f"cannot serve on {host}:{port} ({error.strerror}); set TRENDCAST_GATEWAY_HOST and TRENDCAST_GATEWAY_PORT"
        ) from error
    return listening

"""Real IMAP clients, many at a time, in the states that matter to imap-login.

A client that is not logged in holds an imap-login process. Once logged in it holds
one only over TLS: a plain connection is handed to an imap process.
"""

from __future__ import annotations

import collections
import enum
import imaplib
import itertools
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lab import PASSWORD, USERS, Dovecot

HOST = "127.0.0.1"


class Outcome(enum.Enum):
    """What became of a connection that only knocks."""

    GREETED = "greeted"
    CLOSED = "closed without greeting"
    SILENT = "connected, no answer"
    CONNECT_TIMEOUT = "never connected"


class Client:
    """One connection, in the state it was brought to."""

    def __init__(self, connection: imaplib.IMAP4, user: str) -> None:
        self.connection = connection
        self.user = user

    def login(self) -> None:
        self.connection.login(self.user, PASSWORD)

    def idle(self) -> None:
        """SELECT INBOX and IDLE, by hand: this imaplib does not know the command."""
        connection = self.connection
        connection.select("INBOX")
        connection.send(connection._new_tag() + b" IDLE\r\n")  # type: ignore[attr-defined]
        while not (line := connection.readline()).startswith(b"+"):
            if not line.startswith(b"*"):
                raise RuntimeError(f"IDLE was answered with {line!r}")

    def closed_by_server(self, timeout: float) -> bool:
        """Whether the server ends the connection within `timeout` seconds; for idle clients."""
        deadline = time.monotonic() + timeout
        try:
            while (remaining := deadline - time.monotonic()) > 0:
                self.connection.sock.settimeout(remaining)
                if not self.connection.sock.recv(4096):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Hangs up without a word, as clients that vanish do."""
        self.connection.shutdown()


class Clients:
    """Holds connections to one Dovecot until closed; a context manager.

    Each further client is the next user (u1, u2, ...). At most `at_once` are being
    brought into their state at the same time: more than the service has room for
    would get each other dropped.
    """

    def __init__(self, dovecot: Dovecot, at_once: int = 16, timeout: float = 30) -> None:
        self._ports = dovecot.ports
        self._at_once = at_once
        self._timeout = timeout
        self._users = (f"u{number}" for number in itertools.cycle(range(1, USERS + 1)))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self.held: list[Client] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, clients: list[Client] | None = None) -> None:
        """Hangs up on these clients, or on all."""
        for client in list(self.held if clients is None else clients):
            self.held.remove(client)
            client.close()

    def pre_auth(self, count: int, tls: bool = False) -> list[Client]:
        """Clients that have read the greeting (over TLS after the handshake), no more."""
        return self._open(count, tls, lambda client: None)

    def logged_in(self, count: int, tls: bool = False) -> list[Client]:
        """Clients that are logged in and do nothing."""
        return self._open(count, tls, Client.login)

    def idle(self, count: int, tls: bool = True) -> list[Client]:
        """Clients that wait for mail in their INBOX."""

        def prepare(client: Client) -> None:
            client.login()
            client.idle()

        return self._open(count, tls, prepare)

    def _open(self, count: int, tls: bool, prepare: Callable[[Client], None]) -> list[Client]:
        def connect(user: str) -> Client:
            if tls:
                port = self._ports["imaps"]
                connection: imaplib.IMAP4 = imaplib.IMAP4_SSL(
                    HOST, port, ssl_context=self._tls, timeout=self._timeout
                )
            else:
                connection = imaplib.IMAP4(HOST, self._ports["imap"], timeout=self._timeout)
            client = Client(connection, user)
            # Held before it is prepared, so that it is closed if that fails.
            self.held.append(client)
            prepare(client)
            return client

        users = [next(self._users) for _ in range(count)]
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(connect, users))

    def knock(
        self, count: int, timeout: float, until: Callable[[], object] = lambda: False
    ) -> collections.Counter[Outcome]:
        """Opens plain connections at once, says nothing, and tells what became of them.

        Ends after `timeout` seconds, when all are greeted or closed, or when `until`
        holds. All of them, greeted ones too, stay open until then.
        """
        outcomes: dict[socket.socket, Outcome] = {}
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                knocker = socket.socket()
                knocker.setblocking(False)
                knocker.connect_ex((HOST, self._ports["imap"]))
                outcomes[knocker] = Outcome.CONNECT_TIMEOUT
                selector.register(knocker, selectors.EVENT_WRITE)
            deadline = time.monotonic() + timeout
            while selector.get_map() and time.monotonic() < deadline and not until():
                for key, _events in selector.select(0.05):
                    _advance(key.fileobj, selector, outcomes)  # type: ignore[arg-type]
        for knocker in outcomes:
            knocker.close()
        return collections.Counter(outcomes.values())

    def start_login_storm(self, seconds: float, workers: int = 2, users: int = USERS) -> Storm:
        """Processes that log in and out (plain) as fast as they can, in the background."""
        return Storm(self._ports["imap"], seconds, workers, users)

    def login_storm(self, seconds: float, workers: int = 2, users: int = USERS) -> StormResult:
        """The same, waiting for the end."""
        return self.start_login_storm(seconds, workers, users).result()


def _advance(
    knocker: socket.socket, selector: selectors.BaseSelector, outcomes: dict[socket.socket, Outcome]
) -> None:
    """Notes what happened to a connection that the selector found ready."""
    if outcomes[knocker] is Outcome.CONNECT_TIMEOUT:
        if knocker.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            outcomes[knocker] = Outcome.SILENT
            selector.modify(knocker, selectors.EVENT_READ)
            return
        outcomes[knocker] = Outcome.CLOSED
    else:
        try:
            greeted = bool(knocker.recv(4096))
        except OSError:
            greeted = False
        outcomes[knocker] = Outcome.GREETED if greeted else Outcome.CLOSED
    selector.unregister(knocker)


class StormResult(NamedTuple):
    """Logins that went through from connect to logout, and those that did not."""

    succeeded: int
    failed: int


class Storm:
    """Running login processes. Programs, not forks: the test has threads, and one interpreter is too slow."""

    def __init__(self, port: int, seconds: float, workers: int, users: int) -> None:
        arguments = [str(port), str(seconds), str(users)]
        self._workers = [
            subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, __file__, *arguments, str(worker)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for worker in range(workers)
        ]

    def result(self) -> StormResult:
        """Waits for the end of the storm."""
        succeeded = failed = 0
        for worker in self._workers:
            output, _ = worker.communicate()
            if worker.returncode != 0:
                raise RuntimeError(f"a login process ended with {worker.returncode}")
            one, other = map(int, output.split())
            succeeded, failed = succeeded + one, failed + other
        return StormResult(succeeded, failed)


def _log_in_and_out(port: int, user: str) -> bool:
    """One session without imaplib, which would add a round trip to each."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            if not connection.recv(4096):
                return False
            connection.sendall(f"a LOGIN {user} {PASSWORD}\r\nb LOGOUT\r\n".encode())
            answer = b""
            while data := connection.recv(4096):
                answer += data
            return b"a OK " in answer and b"\r\nb OK " in answer
    except OSError:
        return False


def _storm_worker(port: int, seconds: float, users: int, worker: int) -> None:
    deadline = time.monotonic() + seconds
    results: collections.Counter[bool] = collections.Counter()
    # Every worker begins elsewhere, so that they seldom share a mailbox.
    for number in itertools.count(worker * 101):
        if time.monotonic() > deadline:
            break
        results[_log_in_and_out(port, f"u{number % users + 1}")] += 1
    print(results[True], results[False])


if __name__ == "__main__":
    _storm_worker(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

"""Many clients, slow ones and hostile ones, at a door with TLS and passwords."""

from __future__ import annotations

import base64
import http.client
import itertools
import select
import socket
import ssl
import statistics
import threading
import time
import unittest
from contextlib import closing

from lab import Exporter, wait_until
from web_files import TLS, Folder, hash_of, run

PATIENCE = 60
# Prometheus' own.
SCRAPE_TIMEOUT = 10
WRONG_PER_SECOND = 100
FLOOD_SECONDS = 5
HALF_OPEN = 200
# More than the exporter keeps open.
MORE = 600


def ask(address: str, user: str, password: str, source: str = "127.0.0.1", path: str = "/metrics") -> int:
    """The status of a scrape with that password."""
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), SCRAPE_TIMEOUT, source_address=(source, 0))
    with closing(connection):
        connection.request("GET", path, headers=basic(user, password))
        answer = connection.getresponse()
        answer.read()
        return answer.status


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def median_of_scrapes(address: str, scrapes: int) -> float:
    """In seconds; each must be answered."""
    taken = []
    for _ in range(scrapes):
        began = time.monotonic()
        if (status := ask(address, "good", "secret")) != 200:
            raise AssertionError(f"a good user's scrape was answered with {status}")
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


class Passwords(unittest.TestCase):
    def site(self, **costs: int) -> Exporter:
        """An exporter whose users have the password "secret", at these costs."""
        folder = Folder(self.enterContext)
        users = "".join(f"  {user}: {hash_of('secret', cost)}\n" for user, cost in costs.items())
        folder.write("web.yml", f"basic_auth_users:\n{users}")
        return self.enterContext(folder.exporter())

    def test_a_long_check_holds_up_no_scrape(self) -> None:
        """One that began before, and has not ended when twenty scrapes have."""
        exporter = self.site(good=4, slow=14)
        self.assertEqual(ask(exporter.address, "good", "secret"), 200)
        with closing(http.client.HTTPConnection(exporter.address, timeout=PATIENCE)) as slow:
            slow.request("GET", "/", headers=basic("slow", "wrong"))
            wait_until(lambda: "bcrypt" in threads(exporter), PATIENCE, "the check of the password")
            for _ in range(20):
                self.assertEqual(ask(exporter.address, "good", "secret"), 200)
            self.assertEqual(select.select([slow.sock], [], [], 0)[0], [], "the slow one was answered before")
            self.assertEqual(slow.getresponse().status, 401)

    def test_flood(self) -> None:
        """100 wrong passwords a second, each another one, by users who are known and who are not."""
        exporter = self.site(good=10, late=10)
        self.assertEqual(ask(exporter.address, "good", "secret"), 200)
        calm = median_of_scrapes(exporter.address, 20)
        statuses: list[int] = []
        began = time.monotonic()
        number = itertools.count()

        def flood() -> None:
            while (mine := next(number)) < WRONG_PER_SECOND * FLOOD_SECONDS:
                # At its own time, whatever becomes of those before.
                due = began + mine / WRONG_PER_SECOND
                wait_until(lambda: time.monotonic() >= due, PATIENCE, "its turn", every=0.005)
                statuses.append(ask(exporter.address, ("good", "nobody")[mine % 2], f"wrong{mine}"))

        floods = [threading.Thread(target=flood) for _ in range(20)]
        for thread in floods:
            thread.start()
        wait_until(lambda: 503 in statuses, PATIENCE, "the flood to be more than can be checked")
        # From another address, the first time, when nothing is remembered of him.
        self.assertEqual(ask(exporter.address, "late", "secret", source="127.0.0.2"), 200)
        flooded = median_of_scrapes(exporter.address, 20)
        self.assertTrue(any(thread.is_alive() for thread in floods), "the flood was over before the scrapes")
        for thread in floods:
            thread.join()
        self.assertEqual(len(statuses), WRONG_PER_SECOND * FLOOD_SECONDS)
        self.assertEqual(set(statuses), {401, 503})
        self.assertEqual(ask(exporter.address, "good", "secret"), 200)
        refused = statuses.count(503)
        print(
            f"{len(statuses)} wrong passwords in {time.monotonic() - began:.1f} s, {refused} of them not looked at; a good "
            f"user's scrape takes {calm * 1000:.1f} ms, and {flooded * 1000:.1f} ms meanwhile"
        )


def threads(exporter: Exporter) -> set[str]:
    """The names of the exporter's threads."""
    return set(run("ps", "-L", "-o", "comm=", "-p", str(exporter.pid)).stdout.split())


class Handshakes(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Folder(self.enterContext)
        self.folder.issue_all()
        self.folder.write("web.yml", TLS)
        self.exporter = self.enterContext(self.folder.exporter())
        self.host, port = self.exporter.address.split(":")
        self.port = int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=SCRAPE_TIMEOUT)

    def scrape(self) -> tuple[int, str]:
        """The status, and the serial number of the certificate that was shown."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        with context.wrap_socket(self.connect(), server_hostname="localhost") as stream:
            certificate = stream.getpeercert()
            stream.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: stream.recv(1 << 16), b""))
        self.assertIn(b"dovecot_exporter_build_info", answer)
        return int(answer.split()[1]), certificate["serialNumber"]

    def hello(self) -> socket.socket:
        """A connection that has begun a handshake."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        client = context.wrap_socket(self.connect(), server_hostname="localhost", do_handshake_on_connect=False)
        client.setblocking(False)
        with self.assertRaises(ssl.SSLWantReadError):
            client.do_handshake()
        return client

    def test_half_open(self) -> None:
        """Those who say nothing, who say half of a hello, who say it byte by byte, who shake hands and ask nothing."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        hello = ssl.MemoryBIO()
        with self.assertRaises(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
        half = hello.read()[:100]

        def open_half(number: int) -> socket.socket:
            client = self.connect()
            self.addCleanup(client.close)
            client.sendall((b"", half, half[:1], half[:5])[number % 4])
            return client

        slow = [open_half(number) for number in range(HALF_OPEN - 10)]
        slow += [context.wrap_socket(self.connect(), server_hostname="localhost") for _ in range(10)]
        self.assertEqual(self.scrape()[0], 200)
        readable = select.select(slow, [], [], 0)[0]
        self.assertLess(len(readable), len(slow), "all were gone before the scrape: nothing was held open")
        # When they take all places, a scrape waits until their time is over, and no longer.
        slow += [open_half(number) for number in range(MORE - HALF_OPEN)]
        self.assertEqual(self.scrape()[0], 200)
        waiting = set(slow)

        def gone() -> bool:
            for client in select.select(list(waiting), [], [], 0)[0]:
                waiting.discard(client)
            return not waiting

        wait_until(gone, PATIENCE, "the exporter to give up all of them")
        for client in slow:
            client.close()

    def test_garbage(self) -> None:
        """What is no TLS ends the connection, and nothing else."""
        for garbage in (b"\x16\x03\x01\xff\xff" + b"x" * 9999, b"\0" * 99, b"\x80\x2e\x01\x00\x02", b"ssh", b"\xff",
                        b"GET / HTTP/9\r\n\r\n", b"GET " + b"x" * 99999):  # fmt: skip
            with self.subTest(garbage[:9]), closing(self.connect()) as client:
                try:
                    client.sendall(garbage)
                    client.shutdown(socket.SHUT_WR)
                    answer = b"".join(iter(lambda: client.recv(4096), b""))
                    self.assertNotIn(b"200 OK", answer)
                except OSError as error:
                    # The exporter may have closed before all was said; to be kept waiting is another matter.
                    self.assertNotIsInstance(error, TimeoutError)
        self.assertEqual(self.scrape()[0], 200)

    def test_a_certificate_replaced_under_load(self) -> None:
        """Ten times: the certificate first, its key while scrapes wait for it. Each is answered."""
        failures: list[Exception] = []
        shown: list[str] = []
        done = threading.Event()

        def scrape_on() -> None:
            while not done.is_set():
                try:
                    shown.append(self.scrape()[1])
                except Exception as error:  # a thread's errors are told by the test
                    failures.append(error)

        scrapers = [threading.Thread(target=scrape_on) for _ in range(3)]
        for scraper in scrapers:
            scraper.start()
        try:
            for _ in range(10):
                before = len(shown)
                wait_until(lambda: len(shown) > before + 3 or failures, PATIENCE, "scrapes")
                self.folder.issue("next", "subjectAltName=DNS:localhost", by="ca")
                (self.folder / "next.pem").rename(self.folder / "server.pem")
                with closing(self.hello()) as early:
                    # No pair that does not fit is shown, nor the old one: he waits.
                    self.assertEqual(select.select([early], [], [], 0.1)[0], [])
                    (self.folder / "next.key").rename(self.folder / "server.key")
                    self.assertEqual(select.select([early], [], [], PATIENCE)[0], [early])
                wanted = run("openssl", "x509", "-noout", "-serial", "-in", self.folder / "server.pem").stdout
                seen = run("openssl", "s_client", "-connect", self.exporter.address).stdout
                self.assertEqual(run("openssl", "x509", "-noout", "-serial", stdin=seen).stdout, wanted)
        finally:
            done.set()
            for scraper in scrapers:
                scraper.join()
        self.assertEqual(failures, [])
        # The first, and each that came.
        self.assertEqual(len(set(shown)), 11)
        self.assertFalse([line for line in self.exporter.stderr if "level=error" in line])


if __name__ == "__main__":
    unittest.main()

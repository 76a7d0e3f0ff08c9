"""Clients that write the text of a warning into the log: no counter may take it for one."""

from __future__ import annotations

import base64
import itertools
import os
import re
import socket
import unittest
from concurrent.futures import ThreadPoolExecutor

from imap_clients import HOST, Clients
from lab import Dovecot, Exporter, Series, wait_until

SERVICE = "imap-login"
UNANCHORED = "dovecot_exporter_log_unanchored_warnings_total"
WARNINGS = "dovecot_service_drop_warnings_total"
DROPPED = "reached, client connections are being dropped"
RELOAD = "master: Warning: SIGHUP received - reloading configuration"
# What lines that nobody counts as anything may change: what is measured, and how much was read.
MAY_MOVE = re.compile(
    r"process_.*|dovecot_service_processes|dovecot_exporter_scrape_duration_seconds"
    r"|dovecot_exporter_log_(lines_total|bytes_total|unanchored_warnings_total|position_bytes|size_bytes"
    r"|last_read_timestamp_seconds)"
)
# Dovecot waits 2 s and more after a failed login.
PATIENCE = 60


def warning(number: int, limit: str = "process_limit") -> str:
    """Each forgery has a number of its own, by which it is found in the log."""
    return f"master: Warning: service({SERVICE}): {limit} ({number}) {DROPPED}"


class Forgery:
    """The same forgeries against both generations."""

    generation: str

    def setUp(self: unittest.TestCase) -> None:
        # 2.3 logs the ID command if it is told to.
        settings = "imap_id_log = *\n" if self.generation == "2.3" else ""
        name = f"forgery-{os.getpid()}"
        self.dovecot = self.enterContext(
            Dovecot(
                self.generation,
                instance_name=name,
                services={SERVICE: {"process_limit": 40}},
                settings=settings,
                auth_verbose=True,
                auth_debug=True,
            )
        )
        self.exporter = self.enterContext(Exporter(self.dovecot))
        self.addresses = (f"127.0.0.{number}" for number in itertools.count(2))
        wait_until(self.dovecot.log_path.exists, PATIENCE, "the log")
        self.before = self.read_page()

    def read_page(self) -> dict[Series, float]:
        """A page made when all of the log had been read."""

        def page() -> dict[Series, float] | None:
            size = self.dovecot.log_path.stat().st_size
            page = self.exporter.metrics()
            return page if page.get(self.key("dovecot_exporter_log_position_bytes")) == size else None

        return wait_until(page, PATIENCE, "the log to be read")

    def key(self, name: str) -> Series:
        return name, frozenset({("log", str(self.dovecot.log_path))})

    def talk(self, *parts: bytes) -> None:
        """Sends each part when the last is answered, and stays until the server ends it or says z OK or z NO."""
        # Each from an address of its own: Dovecot makes those wait who fail often.
        address = next(self.addresses)
        with socket.create_connection(
            (HOST, self.dovecot.ports["imap"]), PATIENCE, source_address=(address, 0)
        ) as connection:
            connection.recv(4096)
            for part in parts:
                connection.sendall(part)
                answer = b""
                while not re.search(rb"(^|\n)([za] (OK|NO|BAD)|\+|\* BAD)", answer):
                    data = connection.recv(4096)
                    if not data:
                        return
                    answer += data

    def quoted(self, user: str) -> None:
        self.talk(f'z LOGIN "{user}" x\r\n'.encode())

    def literal(self, user: str) -> None:
        self.talk(f"z LOGIN {{{len(user)}}}\r\n".encode(), f"{user} x\r\n".encode())

    def plain(self, user: str, authorize: str = "") -> None:
        response = base64.b64encode(f"{authorize}\0{user}\0x".encode())
        self.talk(b"z AUTHENTICATE PLAIN " + response + b"\r\n")

    def at_once(self, forgeries: list[tuple]) -> None:
        with ThreadPoolExecutor(len(forgeries)) as pool:
            for done in [pool.submit(*forgery) for forgery in forgeries]:
                done.result()

    def assert_in_log(self, pattern: str) -> None:
        wait_until(
            lambda: re.search(pattern, self.dovecot.log_text(), re.MULTILINE),
            PATIENCE,
            f"{pattern} in the log",
        )

    def assert_nothing_moved(self: unittest.TestCase, unanchored: int) -> None:
        """But the count of such lines, which rose by as many as the log has."""

        def lines() -> int:
            text = self.dovecot.log_text().split("\n")
            return sum(DROPPED in line for line in text) - len(self.dovecot.warnings())

        def all_counted() -> None:
            # Dovecot logs some of them late: it lets a failed login wait.
            wait_until(
                lambda: unanchored <= lines() == self.read_page()[self.key(UNANCHORED)],
                PATIENCE,
                f"{UNANCHORED} is what the log has, {unanchored} at least",
            )

        all_counted()
        page = self.read_page()
        names = {name for name, _ in self.before.items() ^ page.items() if not MAY_MOVE.fullmatch(name[0])}
        moved = {key: (self.before.get(key), page.get(key)) for key in names}
        self.assertEqual(moved, {})
        # By a witness of our own, the master has said nothing of the kind.
        self.assertEqual(self.dovecot.warnings(), [])

        # The counter is no dead one: a true warning moves it, and by one.
        self.dovecot.write_config(services={SERVICE: {"process_limit": 2}})
        self.dovecot.reload()
        clients = self.enterContext(Clients(self.dovecot))
        wait_until(lambda: not self.dovecot.processes(SERVICE), PATIENCE, "the old processes to end")
        clients.idle(2)
        clients.knock(3, timeout=PATIENCE, until=self.dovecot.warnings)
        clients.close()
        wait_until(
            lambda: self.exporter.value(WARNINGS, service=SERVICE, limit="process_limit")
            == len(self.dovecot.warnings()),
            PATIENCE,
            "the true warning to be counted",
        )
        page = self.read_page()
        self.assertGreater(len(self.dovecot.warnings()), 0)
        all_counted()
        self.assertEqual(page["dovecot_master_reloads_total", frozenset()], 1)

    def test_user_names(self) -> None:
        time = "Nov 23 16:00:00"
        # The user name, and what must be found in the log.
        names = [
            (warning(1001), re.escape(warning(1001))),
            (f"dovecot: {warning(1002)}", re.escape(warning(1002))),
            (f"{time} {warning(1003)}", re.escape(warning(1003))),
            (f"{time} vm dovecot: {warning(1004)}", re.escape(warning(1004))),
            (f"<20>{time} dovecot: {warning(1005)}", re.escape(warning(1005))),
            # Short forms are logged whole by imap-login, too.
            (
                f"service(a): process_limit (1006) {DROPPED}",
                rf"user=<service\(a\): process_limit \(1006\) {DROPPED}>",
            ),
            (f"process_limit (1007) {DROPPED}", rf"user=<process_limit \(1007\) {DROPPED}>"),
            (
                f"{warning(1008, 'client_limit')} (pid=1, reuse_port=yes)",
                r"\(1008\).* \(pid=1, reuse_port=yes\)$",
            ),
            (RELOAD, rf"{RELOAD}$"),
        ]
        forgeries = [(self.quoted, name) for name, _ in names]
        forgeries += [(self.literal, name.replace("(1", "(2")) for name, _ in names]
        forgeries += [(self.plain, name.replace("(1", "(3")) for name, _ in names]
        self.at_once(forgeries)
        for _, pattern in names:
            for thousand in (1, 2, 3):
                self.assert_in_log(pattern.replace("(1", f"({thousand}"))
        # auth's own lines end in the text.
        self.assert_in_log(rf"auth: Debug: .*{re.escape(warning(1001))}$")
        self.assert_nothing_moved(unanchored=3 * 8)

    def test_line_ends(self) -> None:
        names = []
        for number, end in enumerate(("\n", "\r\n", "\r", "\u2028", "\x0b"), 4000):
            names.append((f"x{end}Nov 23 16:00:00 {warning(number)}", number))
            names.append((f"x{end}{warning(number + 100)}{end}", number + 100))
        forgeries = [(self.plain, name) for name, _ in names]
        # A literal may hold them as well.
        forgeries += [(self.literal, name.replace("(4", "(5")) for name, _ in names if name.isascii()]
        self.at_once(forgeries)
        for name, number in names:
            self.assert_in_log(re.escape(f"({number}) {DROPPED}"))
            if name.isascii():
                self.assert_in_log(re.escape(f"({number + 1000}) {DROPPED}"))
        self.assert_nothing_moved(unanchored=2 * len(names))

    def test_other_places(self) -> None:
        text = warning(6001)
        identity = f'a ID ("name" "{text}" "version" "{warning(6002)}")\r\n'.encode()
        garbage = f"{warning(6003)}\r\na {warning(6004)}\r\n".encode()
        self.at_once(
            [
                (self.talk, identity, b"z LOGOUT\r\n"),
                (self.talk, garbage, b"z LOGOUT\r\n"),
                (self.plain, "u1", warning(6005)),
                (self.talk, f'z LOGIN u2 "{warning(6006)}"\r\n'.encode()),
                (self.talk, f"z AUTHENTICATE {warning(6007)}\r\n".encode(), b"z LOGOUT\r\n"),
                (self.quoted, f"process_limit (6008) {DROPPED}"),
            ]
        )
        if self.generation == "2.3":
            # imap-login cuts it short; of a short one nothing is missing.
            self.assert_in_log(r"ID sent: name=master: Warning: service\(imap-login\): process_limit \(6001\)")
            self.talk(f'a ID ("name" "process_limit (6009) {DROPPED}")\r\n'.encode(), b"z LOGOUT\r\n")
            self.assert_in_log(rf"ID sent: name=process_limit \(6009\) {DROPPED}")
        self.assert_in_log(r"\(6008\)")
        self.assert_nothing_moved(unanchored=2)

    def test_a_name_so_long_that_the_line_is_split(self: unittest.TestCase) -> None:
        # auth splits what it logs after some 4 KB, and begins each part with a header. A first, measuring
        # login tells where; then one is made so that the last part is the text and nothing else.
        header = r"^[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d auth: Debug: "

        def parts(mark: str) -> list[str]:
            """What follows the header in the lines that hold `mark`."""
            text = self.dovecot.log_text()
            lines = [line for line in text.split("\n") if re.match(header, line) and mark in line]
            return [re.sub(header, "", line) for line in lines]

        def name(length: int, number: int) -> str:
            copies = warning(number) * (length // len(warning(number)) + 1)
            return copies[len(copies) - length :]

        for attempt in range(6):
            measured, number = 7000 + attempt, 8000 + attempt
            self.plain(name(5800, measured))
            wait_until(lambda: len(parts(f"({measured})")) >= 3, PATIENCE, "a line in three parts")
            first = parts(f"({measured})")[0]
            size, prefix = len(first), first.index("\tuser=") + len("\tuser=")
            # In the parts: prefix, the name, "\toriginal_user=", the name again, whose end is one copy.
            twice = 2 * size + len(warning(number)) - prefix - len("\toriginal_user=")
            text = warning(number)
            if twice % 2:
                # A shorter service name makes it even.
                text = text.replace("imap-login", "imap-logi")
                twice -= 1
            copies = text * 60
            self.plain(copies[len(copies) - twice // 2 :])
            wait_until(lambda: len(parts(f"({number})")) >= 2, PATIENCE, "the second login")
            if text in parts(f"({number})"):
                break
        self.assertIn(text, parts(f"({number})"))
        self.assert_in_log(header + re.escape(text) + "$")

        # And the plain brute force: 5,800 bytes with every offset of the text to the split.
        self.at_once([(self.plain, "p" * pad + name(5800 - pad, 9000)) for pad in range(0, 110, 5)])
        wait_until(lambda: len(parts("(9000)")) >= 60, PATIENCE, "the long names in the log")
        self.assert_nothing_moved(unanchored=60)


class Forgery23(Forgery, unittest.TestCase):
    generation = "2.3"


class Forgery24(Forgery, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()

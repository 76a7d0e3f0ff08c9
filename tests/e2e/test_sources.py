"""Every way from Dovecot's log to the exporter: syslog, the journal, containers, a pipe. All must count, and once."""

from __future__ import annotations

import collections
import contextlib
import datetime
import gzip
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab import Dovecot, Exporter, Series, as_nobody, process_stats, session, wait_until
from loggers import Journald, LoggingDovecot, Room, Rsyslog
from test_rotation import PATIENCE, ROTATIONS, Knocking, counted

UNANCHORED = "dovecot_exporter_log_unanchored_warnings_total"
LINES = "dovecot_exporter_log_lines_total"
READ_ERRORS = "dovecot_exporter_log_read_errors_total"
UP = "dovecot_exporter_source_up"
SERVICES = {"imap": "imap-login", "pop3": "pop3-login", "submission": "submission-login", "sieve": "managesieve-login"}
WARNING = "master: Warning: service(imap-login): process_limit (2) reached, client connections are being dropped"
OF_SERVICE = re.compile(
    r"master: Warning: service\(([^)]+)\): process_limit \(2\) reached, client connections are being dropped"
)
REPEATED = re.compile(r"message repeated (\d+) times: \[ (.*)\]")
TEMPLATES = ("RSYSLOG_TraditionalFileFormat", "RSYSLOG_FileFormat", "RSYSLOG_SyslogProtocol23Format")
TIMES = 4


def warnings(text: str) -> collections.Counter[str]:
    """The warnings of each service."""
    return collections.Counter(OF_SERVICE.findall(text))


def text_of(file: Path) -> str:
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()


class OfFullServices:
    """A Dovecot whose login services are full, and an exporter that hears of it in one way or another."""

    generation: str
    instance_name: str | None
    exporter: Exporter

    def logged(self) -> collections.Counter[str]:
        """The warnings that Dovecot has logged, by a witness of our own."""
        raise NotImplementedError

    def full(
        self,
        room: Room | None = None,
        protocols: Sequence[str] = tuple(SERVICES),
        services: dict[str, str] = SERVICES,
        settings: str = "",
    ) -> LoggingDovecot:
        return LoggingDovecot(
            self.generation,
            room,
            instance_name=self.instance_name,
            protocols=protocols,
            services={services[protocol]: {"process_limit": 2} for protocol in protocols},
            settings=settings,
        )

    @contextlib.contextmanager
    def overload(self, *dovecots: Dovecot) -> Iterator[None]:
        """Warnings all the time; what Dovecot logs while it ends belongs to them."""
        plain = [port for dovecot in dovecots for name, port in dovecot.ports.items() if name in SERVICES]
        with Knocking(plain):
            yield
        for dovecot in dovecots:
            dovecot.stop()

    def another(self) -> None:
        before = self.logged().total()
        wait_until(lambda: self.logged().total() > before, PATIENCE, "another warning")

    def assert_all_counted(self: unittest.TestCase) -> dict[Series, float]:
        """When nothing more is logged; the page that has it."""
        logged = self.logged()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: counted(self.exporter.metrics()) == logged, PATIENCE, "the counters")
        page = self.exporter.metrics()
        print(f"\n{self.id()}: {dict(logged)}", flush=True)
        self.assertEqual(counted(page), logged)
        self.assertGreater(logged.total(), TIMES)
        return page

    def value(self, page: dict[Series, float], name: str, **labels: str) -> float | None:
        return page.get((name, frozenset(labels.items())))


class Generation23:
    generation = "2.3"
    # Without one it is dovecot.
    instance_name = None


class Generation24:
    generation = "2.4"
    instance_name = "dovecot-sources"


# --- syslog -------------------------------------------------------------------


class OfRsyslog(OfFullServices):
    def follow(self: unittest.TestCase, template: str, reduce: bool = False) -> None:
        self.room = self.enterContext(Room())
        self.rsyslog = self.enterContext(Rsyslog(self.room, template, reduce))

    def start(self: unittest.TestCase, dovecot: LoggingDovecot) -> LoggingDovecot:
        self.enterContext(dovecot)
        self.exporter = self.enterContext(Exporter(dovecot, f"--dovecot.log-file={self.rsyslog.log}"))
        return dovecot

    def logged(self) -> collections.Counter[str]:
        files = self.rsyslog.log.parent.glob("mail.log*")
        return warnings("".join(map(text_of, files)))

    def rotate_often(self: unittest.TestCase, template: str) -> None:
        self.follow(template)
        dovecot = self.start(self.full(self.room))
        with self.overload(dovecot):
            for _ in range(TIMES):
                self.another()
                self.rsyslog.rotate()
            self.another()
        page = self.assert_all_counted()
        self.assertEqual(self.value(page, ROTATIONS, log=str(self.rsyslog.log)), TIMES)
        self.assertEqual(self.value(page, UNANCHORED, log=str(self.rsyslog.log)), 0)

    def test_traditional_format(self) -> None:
        self.rotate_often("RSYSLOG_TraditionalFileFormat")

    def test_iso_8601(self) -> None:
        self.rotate_often("RSYSLOG_FileFormat")

    def test_rfc_5424(self) -> None:
        self.rotate_often("RSYSLOG_SyslogProtocol23Format")

    def test_repeated_messages(self: unittest.TestCase) -> None:
        self.follow("RSYSLOG_FileFormat", reduce=True)
        # What the login processes say would come between.
        dovecot = self.start(self.full(self.room, ["imap"], settings="info_log_path = /dev/null\n"))
        seen = set()

        def seven() -> bool:
            """Dovecot logs at most one in a second."""
            seen.add(dovecot.service_status("imap-login")["last_drop_warning"])
            return len(seen - {0}) >= 7

        with self.overload(dovecot):
            wait_until(seven, PATIENCE, "seven warnings")
        text = self.rsyslog.log.read_text()
        expanded, reduced = REPEATED.subn(lambda match: f"{match[2]}\n" * int(match[1]), text)
        self.assertGreater(reduced, 0)
        self.logged = lambda: warnings(expanded)
        self.assert_all_counted()
        self.assertGreaterEqual(warnings(expanded).total(), 7)


class OfRsyslog23(Generation23, OfRsyslog, unittest.TestCase):
    pass


class OfRsyslog24(Generation24, OfRsyslog, unittest.TestCase):
    pass


class OfRepeatedMessages(unittest.TestCase):
    """rsyslogd alone, with more of them than Dovecot logs."""

    def test_any_number(self) -> None:
        numbers = (1, 2, 3, 10, 1000, 1)
        for template in TEMPLATES:
            with self.subTest(template), contextlib.ExitStack() as stack:
                room = stack.enter_context(Room())
                rsyslog = stack.enter_context(Rsyslog(room, template, reduce=True))
                flag = f"--dovecot.log-file={rsyslog.log}"
                exporter = stack.enter_context(Exporter(None, "--dovecot.doveconf=/bin/false", flag))
                sender = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                sender.connect(str(room.root / "dev/log"))
                for number in numbers:
                    for text in [WARNING] * number + ["imap-login: Login: user=<u1>"]:
                        sender.send(f"<20>{datetime.datetime.now():%b %d %H:%M:%S} dovecot: {text}".encode())
                wait_until(
                    lambda: counted(exporter.metrics()).get("imap-login") == sum(numbers), PATIENCE, "all"
                )
                # A second one is written as it is.
                reduced = sum(number > 2 for number in numbers)
                self.assertEqual(len(REPEATED.findall(rsyslog.log.read_text())), reduced)


# --- the journal --------------------------------------------------------------


class OfJournal(OfFullServices):
    def setUp(self: unittest.TestCase) -> None:
        self.room = self.enterContext(Room())
        self.journald = self.enterContext(Journald(self.room))
        self.dovecot = self.enterContext(self.full(self.room))
        self.identifier = self.instance_name or "dovecot"
        flag = "--dovecot.log-journal" + (f"={self.instance_name}" if self.instance_name else "")
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="sources-"))
        self.exporter = Exporter(
            None,
            f"--dovecot.config={self.dovecot.config}",
            f"--dovecot.doveconf={self.dovecot.doveconf}",
            f"--state.file={folder}/state",
            flag,
        )
        self.exporter.command[:0] = self.room.enter
        self.enterContext(self.exporter)
        self.entries: dict[str, str] = {}

    def logged(self) -> collections.Counter[str]:
        # Together with those that were vacuumed away.
        self.entries |= self.journald.entries(f"SYSLOG_IDENTIFIER={self.identifier}", "_UID=0")
        return warnings("\n".join(self.entries.values()))

    def assert_all_counted(self: unittest.TestCase) -> dict[Series, float]:
        page = super().assert_all_counted()
        self.assertEqual(self.value(page, UP, source="journal"), 1)
        self.assertEqual(self.value(page, UNANCHORED, log=f"journal:{self.identifier}"), 0)
        return page

    def journalctl(self) -> list[int]:
        """The exporter's."""
        pids = [stat.pid for stat in process_stats() if stat.parent == self.exporter.pid]
        return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "journalctl\n"]

    def test_entries_of_others(self: unittest.TestCase) -> None:
        logger = [*self.room.enter, *as_nobody(), "logger", "-p", "mail.warning"]
        others = ["_UID=65534"]
        with self.overload(self.dovecot):
            self.another()
            for identifier in (self.identifier, "dovecot", "postfix"):
                subprocess.run([*logger, "-t", identifier, WARNING], check=True)
            wait_until(lambda: len(self.journald.entries(*others)) == 3, PATIENCE, "the forgeries")
            self.another()
            self.another()
        page = self.assert_all_counted()
        self.assertEqual(warnings("\n".join(self.journald.entries(*others).values()))["imap-login"], 3)

    def test_rotation_and_vacuum(self: unittest.TestCase) -> None:
        with self.overload(self.dovecot):
            for _ in range(TIMES):
                self.another()
                self.journald.journalctl("--rotate")
                # What is in the archived files is in our hands before it goes.
                self.logged()
                self.journald.journalctl("--vacuum-files=1")
            self.another()
        self.assert_all_counted()
        left = self.journald.entries(f"SYSLOG_IDENTIFIER={self.identifier}", "_UID=0")
        self.assertLess(len(left), len(self.entries))

    def test_restarts(self: unittest.TestCase) -> None:
        with self.overload(self.dovecot):
            for kill in (True, False) * 2:
                self.another()
                leader = self.exporter.pid
                if kill:
                    self.exporter.process.kill()
                self.exporter.stop()
                wait_until(lambda: not session(leader), PATIENCE, "its journalctl to end")
                self.another()
                self.exporter.start()
            self.another()
        self.assert_all_counted()

    def test_the_end_of_journalctl(self: unittest.TestCase) -> None:
        with self.overload(self.dovecot):
            for _ in range(TIMES):
                self.another()
                pids = wait_until(self.journalctl, PATIENCE, "journalctl")
                os.kill(pids[0], signal.SIGKILL)
                self.another()
            wait_until(self.journalctl, PATIENCE, "journalctl")
        page = self.assert_all_counted()
        self.assertEqual(self.value(page, READ_ERRORS, log=f"journal:{self.identifier}"), TIMES)


class OfJournal23(Generation23, OfJournal, unittest.TestCase):
    pass


class OfJournal24(Generation24, OfJournal, unittest.TestCase):
    pass

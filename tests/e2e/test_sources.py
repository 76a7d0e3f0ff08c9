"""Every way from Dovecot's log to the exporter: syslog, the journal, containers, a pipe. All must count, and once."""

from __future__ import annotations

import collections
import contextlib
import datetime
import gzip
import os
import re
import secrets
import shutil
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
QUEUE_FULL_KILLS = "dovecot_service_queue_full_kills_total"
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

    def all_counted(self) -> bool:
        return counted(self.exporter.metrics()) == self.logged()

    def assert_all_counted(self: unittest.TestCase) -> dict[Series, float]:
        """When nothing more is logged; the page that has it."""
        with contextlib.suppress(TimeoutError):
            wait_until(self.all_counted, PATIENCE, "the counters")
        logged, page = self.logged(), self.exporter.metrics()
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
        self.state = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sources-"))) / "state"
        self.exporter = Exporter(
            None,
            f"--dovecot.config={self.dovecot.config}",
            f"--dovecot.doveconf={self.dovecot.doveconf}",
            f"--state.file={self.state}",
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

    def test_the_last_entry_is_gone(self: unittest.TestCase) -> None:
        """Vacuumed away while no exporter ran; all that came behind it counts."""
        logger = [*self.room.enter, "logger", "-p", "mail.warning", "-t", self.identifier, WARNING]
        wait_until(self.state.exists, PATIENCE, "the first state")
        subprocess.run(logger, check=True)
        wait_until(lambda: counted(self.exporter.metrics()).get("imap-login") == 1, PATIENCE, "the warning")
        self.exporter.stop()
        before = self.journald.entries("_TRANSPORT=syslog")
        self.journald.journalctl("--rotate")
        for _ in range(2):
            subprocess.run(logger, check=True)
        self.journald.journalctl("--sync")
        self.journald.journalctl("--vacuum-files=1")
        self.assertFalse(before.keys() & self.journald.entries().keys())
        self.exporter.start()
        wait_until(lambda: counted(self.exporter.metrics()).get("imap-login") == 3, PATIENCE, "those behind it")

    def test_restarts(self: unittest.TestCase) -> None:
        # Who has no state yet begins anew.
        wait_until(self.state.exists, PATIENCE, "the first state")
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


# --- containers ---------------------------------------------------------------

PIECE = 16 * 1024
# A record's text, and whether that ends a line.
Record = Callable[[bytes, bool], str]


def now() -> str:
    """As Go's RFC3339Nano has it: without zeros at the end."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    fraction = f".{nanoseconds:09}".rstrip("0").rstrip(".")
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def escape(match: re.Match[str]) -> str:
    known = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r"}
    return known.get(match[0], f"\\u{ord(match[0]):04x}")


def docker_record(piece: bytes, last: bool) -> str:
    text = piece.decode(errors="replace") + "\n" * last
    text = re.sub(r'[\x00-\x1f"\\<>&\u2028\u2029]', escape, text)
    return f'{{"log":"{text}","stream":"stderr","time":"{now()}"}}\n'


def cri_record(piece: bytes, last: bool) -> str:
    return f"{now()} stderr {'F' if last else 'P'} {piece.decode()}\n"


class Container:
    """What the runtime does with the standard error of a container: a record for each line, or piece of a long one."""

    def __init__(self, log: Path, record: Record) -> None:
        self.log = log
        self._file = log.open("a")
        self._record = record
        self._lock = threading.Lock()
        self.said = b""
        self._input, self.output = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Container:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends when all that has the output open has ended."""
        os.close(self.output)
        self._thread.join()
        self._file.close()

    def reopen(self) -> None:
        """Makes the file anew, which was renamed."""
        new = self.log.open("a")
        with self._lock:
            old, self._file = self._file, new
        old.close()

    def _run(self) -> None:
        with open(self._input, "rb") as lines:
            for line in lines:
                self.said += line
                self.write(line.rstrip(b"\n"))

    def write(self, line: bytes) -> None:
        pieces = [line[start : start + PIECE] for start in range(0, len(line), PIECE)] or [b""]
        with self._lock:
            for piece in pieces[:-1]:
                self._file.write(self._record(piece, False))
            self._file.write(self._record(pieces[-1], True))
            self._file.flush()

    def rotate(self) -> None:
        """As Docker does: FILE.1 is the newest of the old ones."""
        name = self.log.name
        for number in range(TIMES, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self.log.with_name(f"{name}.{number}").rename(self.log.with_name(f"{name}.{number + 1}"))
        self.log.rename(self.log.with_name(f"{name}.1"))
        self.reopen()

    def remove(self) -> None:
        shutil.rmtree(self.log.parent)


class Pod(Container):
    """A pod's only container, with the files that kubelet has it write."""

    def __init__(self, logs: Path, name: str) -> None:
        folder = logs / "pods" / f"mail_{name}_{uuid.uuid4()}" / "dovecot"
        folder.mkdir(parents=True)
        super().__init__(folder / "0.log", cri_record)
        self._link = logs / "containers" / f"{name}_mail_dovecot-{secrets.token_hex(32)}.log"

    def __enter__(self) -> Pod:
        super().__enter__()
        self._link.symlink_to(self.log)
        return self

    def rotate(self) -> None:
        """The newest of the old ones stays as it is until the next time."""
        for old in self.log.parent.glob("0.log.*"):
            if old.suffix != ".gz":
                draft = Path(f"{old}.tmp")
                draft.write_bytes(gzip.compress(old.read_bytes()))
                draft.rename(f"{old}.gz")
                old.unlink()
        self.log.rename(f"{self.log}.{datetime.datetime.now():%Y%m%d-%H%M%S}")
        self.reopen()

    def remove(self) -> None:
        self._link.unlink()
        shutil.rmtree(self.log.parent.parent)


class OfContainers(OfFullServices):
    def setUp(self: unittest.TestCase) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sources-")))
        (self.folder / "containers").mkdir()
        self.containers: list[Container] = []
        self.dovecot = self.full()
        self.addCleanup(self.dovecot.close)

    def logged(self) -> collections.Counter[str]:
        return warnings(b"".join(container.said for container in self.containers).decode())

    def follow(self: unittest.TestCase, pattern: str, make: Callable[[int], Container]) -> None:
        """Dovecot runs in one container after another, whose logs match the pattern."""
        log = f"{self.folder}/{pattern}"
        self.exporter = self.enterContext(Exporter(self.dovecot, f"--dovecot.log-file={log}"))
        forged = f"Nov 24 02:44:57 {WARNING}".encode()
        for number in range(2):
            with make(number) as container:
                self.containers.append(container)
                self.dovecot.output = container.output
                self.dovecot.start()
                with self.overload(self.dovecot):
                    self.another()
                    # One that is rotated before anybody has seen it is lost; at 10 MiB none is.
                    wait_until(self.all_counted, PATIENCE, "the exporter to find the file")
                    for _ in range(TIMES):
                        self.another()
                        # Not of Dovecot, and a text of Dovecot's stands at the start of the second piece.
                        container.write(b"x" * PIECE + forged)
                        container.rotate()
                    self.another()
            container.remove()
        page = self.assert_all_counted()
        self.assertEqual(self.value(page, ROTATIONS, log=log), 2 * TIMES)
        # Behind so long a line nobody can say whether a login process's own is a client's text.
        killed = b"".join(container.said for container in self.containers).count(b"Connection queue full")
        unanchored = self.value(page, UNANCHORED, log=log)
        kills = sum(value for (name, _), value in page.items() if name == QUEUE_FULL_KILLS)
        self.assertGreaterEqual(unanchored, 2 * TIMES)
        self.assertEqual(unanchored + kills, 2 * TIMES + killed)

    def test_docker(self) -> None:
        def make(_number: int) -> Container:
            identity = secrets.token_hex(32)
            folder = self.folder / "containers" / identity
            folder.mkdir()
            return Container(folder / f"{identity}-json.log", docker_record)

        self.follow("containers/*/*-json.log", make)

    def test_kubernetes(self) -> None:
        self.follow("containers/*.log", lambda number: Pod(self.folder, f"dovecot-{number}"))


class OfContainers23(Generation23, OfContainers, unittest.TestCase):
    pass


class OfContainers24(Generation24, OfContainers, unittest.TestCase):
    pass


# --- others -------------------------------------------------------------------


class OfAPipe(OfFullServices):
    def logged(self) -> collections.Counter[str]:
        return warnings(self.witness.read_text())

    def test_until_its_end(self: unittest.TestCase) -> None:
        self.witness = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sources-"))) / "log"
        read, write = os.pipe()
        input_, output = os.pipe()
        tee = self.enterContext(subprocess.Popen(["tee", self.witness], stdin=input_, stdout=write))
        dovecot = self.full()
        self.exporter = Exporter(dovecot, "--dovecot.log-file=-")
        self.exporter.command[:0] = ["sh", "-c", 'exec "$@" <"$0"', f"/proc/{os.getpid()}/fd/{read}"]
        self.enterContext(self.exporter)
        dovecot.output = output
        self.enterContext(dovecot)
        for end in (read, write, input_, output):
            os.close(end)
        self.assertEqual(self.exporter.value(UP, source="log"), 1)
        with self.overload(dovecot):
            for _ in range(TIMES):
                self.another()
        tee.wait()
        page = self.assert_all_counted()
        self.assertEqual(self.value(page, LINES, log="-"), self.witness.read_text().count("\n"))
        wait_until(lambda: self.exporter.value(UP, source="log") == 0, PATIENCE, "the end")
        self.assertEqual(counted(self.exporter.metrics()), self.logged())


class OfAPipe23(Generation23, OfAPipe, unittest.TestCase):
    pass


class OfAPipe24(Generation24, OfAPipe, unittest.TestCase):
    pass


class OfSeveral(OfFullServices):
    """By the journal, by a file and from a pod, each of a Dovecot with another service that is full."""

    def logged(self) -> collections.Counter[str]:
        journal = self.journald.entries(f"SYSLOG_IDENTIFIER={self.instance_name or 'dovecot'}", "_UID=0")
        logs = self.file.lab.glob("dovecot.log*")
        texts = ["\n".join(journal.values()), self.pod.said.decode(), *map(text_of, logs)]
        return warnings("\n".join(texts))

    def test_all_at_once(self: unittest.TestCase) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sources-")))
        (folder / "containers").mkdir()
        room = self.enterContext(Room())
        self.journald = self.enterContext(Journald(room))
        self.pod = self.enterContext(Pod(folder, "dovecot-0"))
        journal, pod = self.full(room, ["imap"]), self.full(None, ["pop3"])
        self.file = Dovecot(
            self.generation, protocols=["sieve"], services={"managesieve-login": {"process_limit": 2}}
        )
        for dovecot in (journal, pod, self.file):
            self.addCleanup(dovecot.close)
        pod.output = self.pod.output
        link = folder / "link"
        link.symlink_to(self.file.log_path)
        same = [str(self.file.log_path), f"{self.file.lab}/*.log", str(link)]
        logs = [*same, f"{folder}/containers/*.log"]
        flag = "--dovecot.log-journal" + (f"={self.instance_name}" if self.instance_name else "")
        self.exporter = Exporter(journal, *(f"--dovecot.log-file={log}" for log in logs), flag)
        self.exporter.command[:0] = room.enter
        self.enterContext(self.exporter)
        for dovecot in (journal, pod, self.file):
            dovecot.start()
        with self.overload(journal, pod, self.file):
            for number in range(TIMES):
                self.another()
                self.file.log_path.rename(f"{self.file.log_path}.{number}")
                self.file.admin("log", "reopen")
                wait_until(self.file.log_path.exists, PATIENCE, "the new log")
            self.another()
        page = self.assert_all_counted()
        self.assertEqual(len(self.logged()), 3)
        written = sum(text_of(log).count("\n") for log in self.file.lab.glob("dovecot.log*"))
        self.assertEqual(sum(self.value(page, LINES, log=log) for log in same), written)
        self.assertEqual(self.value(page, LINES, log=logs[-1]), self.pod.said.count(b"\n"))
        for source in ("log", "journal"):
            self.assertEqual(self.value(page, UP, source=source), 1)


class OfSeveral23(Generation23, OfSeveral, unittest.TestCase):
    pass


class OfSeveral24(Generation24, OfSeveral, unittest.TestCase):
    pass


if __name__ == "__main__":
    unittest.main()

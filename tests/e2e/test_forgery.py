"""Clients that write the text of a warning into the log: no counter may take it for one."""

from __future__ import annotations

import base64
import itertools
import os
import re
import socket
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor

from imap_clients import HOST, Clients
from lab import PASSWORD, Dovecot, Exporter, Series, wait_until

SERVICE = "imap-login"
UNANCHORED = "dovecot_exporter_log_unanchored_warnings_total"
WARNINGS = "dovecot_service_drop_warnings_total"
DROPPED = "reached, client connections are being dropped"
RELOAD = "master: Warning: SIGHUP received - reloading configuration"
# What lines that nobody counts as anything may change: what is measured, and how much was read.
MAY_MOVE = re.compile(
    r"process_.*|dovecot_service_(processes(_peak|_counted|_available)?|connections|listen_paused|process_starts_total"
    r"|resident_memory_bytes|at_process_limit_seconds_total)|dovecot_listener_queue_connections|dovecot_cgroup_tasks"
    r"|dovecot_exporter_scrape_duration_seconds"
    r"|dovecot_exporter_log_(lines_total|bytes_total|unanchored_warnings_total|position_bytes|size_bytes"
    r"|last_read_timestamp_seconds)"
)
# How the last line of an answer begins.
IMAP = rb"(^|\n)([za] (OK|NO|BAD)|\+|\* BAD)"
POP3 = rb"(^|\n)(\+|-ERR)"
SIEVE = rb"(^|\n)(OK|NO|BYE)"
SMTP = rb"(^|\n)\d{3} "
# Dovecot waits 2 s and more after a failed login.
PATIENCE = 60


def warning(number: int, limit: str = "process_limit") -> str:
    """Each forgery has a number of its own, by which it is found in the log."""
    return f"master: Warning: service({SERVICE}): {limit} ({number}) {DROPPED}"


class Forging:
    """A Dovecot that logs as much as it can, and clients that know it."""

    generation: str
    protocols: tuple[str, ...] = ("imap",)
    # 2.3 logs the ID command if it is told to.
    settings = {"2.3": "imap_id_log = *\n", "2.4": ""}

    def setUp(self: unittest.TestCase) -> None:
        name = f"forgery-{os.getpid()}"
        self.dovecot = self.enterContext(
            Dovecot(
                self.generation,
                instance_name=name,
                protocols=self.protocols,
                services={SERVICE: {"process_limit": 40}},
                settings=self.settings[self.generation],
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

    def talk(self, *parts: bytes, port: str = "imap", answered: bytes = IMAP) -> None:
        """Sends each part when the last is answered, and stays until the server ends it or has answered them all."""
        # Each from an address of its own: Dovecot makes those wait who fail often.
        address = next(self.addresses)
        with socket.create_connection(
            (HOST, self.dovecot.ports[port]), PATIENCE, source_address=(address, 0)
        ) as connection:
            connection.recv(4096)
            for part in parts:
                connection.sendall(part)
                answer = b""
                while not re.search(answered, answer):
                    try:
                        data = connection.recv(4096)
                    except ConnectionResetError:
                        # It has not read what we said last.
                        return
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
        moved = {}
        for key, value in page.items():
            # Of a service that got its first process there is more, and what is counted of it is 0.
            before = self.before.get(key, 0 if key[0].endswith("_total") else value)
            if value != before and not MAY_MOVE.fullmatch(key[0]):
                moved[key] = before, value
        self.assertEqual(moved, {})
        self.assertEqual(self.before.keys() - page.keys(), set())
        services = {dict(labels).get("service", SERVICE) for _, labels in page.keys() - self.before.keys()}
        self.assertLessEqual(services, self.dovecot.services().keys())
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


class Forgery(Forging):
    """The same forgeries against both generations."""

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


class Fields(Forging):
    """Every field of every protocol that a client fills in, each with a number of its own."""

    protocols = ("imap", "pop3", "submission", "sieve", "lmtp")
    # The numbers of those that are logged at all: measured.
    logged: set[int]
    _SNI = "login_log_format_elements = user=<%{user}> method=%{mechanism} rip=%{rip} name=<%{local_name}>\n"
    settings = {
        "2.3": "imap_id_log = *\nimap_id_retain = yes\nmail_debug = yes\nverbose_ssl = yes\n"
        "auth_verbose_passwords = plain\nauth_mechanisms = plain login\n"
        "mail_plugins = notify mail_log\nplugin {\n"
        "  mail_log_events = delete undelete expunge copy save mailbox_create mailbox_delete mailbox_rename\n"
        "  mail_log_fields = uid box msgid from subject flags\n}\n" + _SNI,
        "2.4": "imap_id_retain = yes\nlog_debug = category=mail or category=imap or category=ssl or category=auth\n"
        "auth_verbose_passwords = plain\nauth_mechanisms = plain login\n"
        "mail_plugins = notify mail_log\n"
        "mail_log_events = delete undelete expunge copy save mailbox_create mailbox_delete mailbox_rename\n"
        "mail_log_fields = uid box msgid from subject flags\n" + _SNI,
    }

    def session(self, *commands: str, user: str) -> list[bytes]:
        """Commands of a client that is logged in."""
        login = f"a LOGIN {user} {PASSWORD}\r\n".encode()
        return [login, *(f"z {command}\r\n".encode() for command in commands)]

    def over_tls(self, name: str, port: str) -> None:
        """A failed login of a client that names the server so."""
        command = ["openssl", "s_client", "-quiet", "-servername", name]
        command += ["-connect", f"{HOST}:{self.dovecot.ports[port]}", "-bind", f"{next(self.addresses)}:0"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **pipes) as client:
            client.stdin.write(b"z LOGIN u1 wrong\r\n")
            client.stdin.flush()
            for line in client.stdout:
                if line.startswith(b"z "):
                    break
            client.terminate()

    def plain_of(self, number: int, authorize: str = "") -> str:
        return base64.b64encode(f"{authorize}\0{warning(number)}\0x".encode()).decode()

    def test_each(self: unittest.TestCase) -> None:
        def b64(number: int) -> bytes:
            return base64.b64encode(warning(number).encode()) + b"\r\n"

        text = warning
        mail = (
            f"From: <{text(131)}>\r\nSubject: {text(132)}\r\nMessage-ID: <{text(133)}>\r\n\r\n{text(134)}\r\n"
        )
        ends = {"pop3": POP3, "sieve": SIEVE, "submission": SMTP, "lmtp": SMTP}
        pop3, sieve, smtp, lmtp = ({"port": port, "answered": end} for port, end in ends.items())
        talks = [
            # --- before the login
            ([b"z AUTHENTICATE PLAIN\r\n", self.plain_of(101).encode() + b"\r\n"], {}),
            ([b"z AUTHENTICATE LOGIN\r\n", b64(102), b64(103)], {}),
            ([f"z AUTHENTICATE PLAIN {self.plain_of(104, text(105))}\r\n".encode()], {}),
            ([f'a ID ("name" "{text(106)}")\r\n'.encode(), b"z LOGIN u3 wrong\r\n"], {}),
            ([f'a ID ("{text(107)[:30]}" "{text(108)}")\r\n'.encode(), b"z LOGOUT\r\n"], {}),
            ([f'a ID ("x-originating-ip" "{text(109)}" "x-session-id" "{text(110)}")\r\n'.encode(), b"z LOGOUT\r\n"], {}),
            ([f"z {text(111)}\r\n".encode()], {}),
            ([f'z LOGIN u4 "{text(112)}"\r\n'.encode()], {}),
            # --- of one who is logged in
            (
                self.session(
                    f'ID ("name" "{text(120)}")',
                    f'CREATE "{text(121)}"',
                    f'SELECT "{text(122)}"',
                    f'STATUS "{text(123)}" (MESSAGES)',
                    f'RENAME "{text(121)}" "{text(124)}"',
                    f'SELECT "{text(124)}"',
                    f'DELETE "{text(124)}"',
                    f'SUBSCRIBE "{text(125)}"',
                    f"{text(126)}",
                    f'LIST "" "{text(127)}"',
                    f'CREATE "x&{text(128)}"',
                    user="u5",
                ),
                {},
            ),
            (
                [
                    *self.session(user="u6"),
                    f"z APPEND INBOX (\\Deleted) {{{len(mail)}}}\r\n".encode(),
                    f"{mail}\r\n".encode(),
                    b"z SELECT INBOX\r\n",
                    f'z SEARCH SUBJECT "{text(135)}"\r\n'.encode(),
                    b"z EXPUNGE\r\n",
                ],
                {},
            ),
            # --- POP3, ManageSieve, submission, LMTP
            ([f"USER {text(141)}\r\n".encode(), b"PASS x\r\n"], pop3),
            ([f"AUTH PLAIN {self.plain_of(142)}\r\n".encode()], pop3),
            ([f"{text(143)}\r\n".encode(), b"USER u7\r\n", f"PASS {text(144)}\r\n".encode()], pop3),
            ([f'AUTHENTICATE "PLAIN" "{self.plain_of(151)}"\r\n'.encode()], sieve),
            ([f"{text(152)}\r\n".encode()], sieve),
            ([f"EHLO {text(161)}\r\n".encode(), f"AUTH PLAIN {self.plain_of(162)}\r\n".encode()], smtp),
            ([f"HELO {text(163)}\r\n".encode(), f"MAIL FROM:<{text(164)}>\r\n".encode(), b"QUIT\r\n"], smtp),
            (
                [
                    f"LHLO {text(171)}\r\n".encode(),
                    f'MAIL FROM:<"{text(172)}"@example.com>\r\n'.encode(),
                    f'RCPT TO:<"{text(173)}"@example.com>\r\n'.encode(),
                    f"RCPT TO:<{text(174)}>\r\n".encode(),
                    b"RSET\r\n",
                    b"MAIL FROM:<>\r\n",
                    b"RCPT TO:<u8>\r\n",
                    b"DATA\r\n",
                    f"{mail.replace('(13', '(18')}.\r\n".encode(),
                    f"{text(175)}\r\n".encode(),
                    b"QUIT\r\n",
                ],
                lmtp,
            ),
        ]

        def speak(parts: list[bytes], options: dict) -> None:
            self.talk(*parts, **options)

        forgeries: list[tuple] = [(speak, *talk) for talk in talks]
        # What TLS calls the server by, of which a library may want that it looks like a name.
        forgeries += [(self.over_tls, text(191), "imaps"), (self.over_tls, f"x\n{text(192)}", "imaps")]
        self.at_once(forgeries)


        def found(end: str) -> set[int]:
            return {int(number) for number in re.findall(rf"limit \((1\d\d)\){end}", self.dovecot.log_text())}

        # The test is of as many fields as Dovecot logs. It cuts some short.
        wait_until(lambda: self.logged <= found(""), PATIENCE, f"{self.logged} in the log")
        whole = found(f" {DROPPED}")
        print(f"\n{self.id()}: in the log {sorted(found(''))}, whole {sorted(whole)}", flush=True)
        self.assert_nothing_moved(unanchored=len(whole))


class Fields23(Fields, unittest.TestCase):
    generation = "2.3"
    kills = "dovecot_service_queue_full_kills_total"

    def test_a_kill_in_a_second_line(self) -> None:
        """An ID so long that its line is split: the second begins as the login process begins what it says itself."""
        kill = "Disconnected: Connection queue full"
        begins = r"^[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d imap-login: Info: " + kill

        def identity(pad: int) -> bytes:
            text = f"{kill}: user=<>, rip=127.0.0.1"
            # A key may have 30 bytes.
            pads = ["x" * min(pad, 25), "x" * max(0, min(pad - 25, 25)), "x" * max(0, pad - 50)]
            fields = [f'"k{number:02}{"".join(pads[number : number + 1])}" "{text}"' for number in range(70)]
            return f"a ID ({' '.join(fields)})\r\n".encode()

        # One of each length of what stands before the split.
        for first in range(0, 75, 15):
            self.at_once([(self.talk, identity(pad), b"z LOGOUT\r\n") for pad in range(first, first + 15)])
        self.assert_in_log(begins)
        page = self.read_page()
        moved = {key for key in page if key[0] == self.kills and page[key] != self.before.get(key, 0)}
        self.assertEqual(moved, set())

    logged = {101, 102, 104, 106, 108, 109, 110, 112, 120, 121, 122, 123, 124, 131, 132, 133, 141, 142, 144}
    logged |= {151, 161, 162, 163, 164, 173, 181, 182, 183, 191, 192}


class Fields24(Fields, unittest.TestCase):
    generation = "2.4"
    # Of what TLS calls the server it takes only what looks like a name.
    logged = {101, 102, 104, 106, 108, 112, 120, 121, 122, 123, 124, 131, 132, 133, 135, 141, 142, 144}
    logged |= {151, 162, 173, 181, 182, 183}


class Forgery23(Forgery, unittest.TestCase):
    generation = "2.3"


class Forgery24(Forgery, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()

"""`status`: beside what Dovecot, the exporter's page and a plugin's own library say, and in a real terminal."""

from __future__ import annotations

import collections
import contextlib
import gzip
import http.server
import json
import math
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imap_clients import Clients
from lab import (
    PERFORMANCE_MODE,
    REPOSITORY,
    Dovecot,
    Exporter,
    Prometheus,
    as_nobody,
    exporter_path,
    free_port,
    wait_until,
)
from loggers import Journald, LoggingDovecot, Room

SERVICE = "imap-login"
LIMIT = 10
PATIENCE = 30
UNLIMITED = 2**32 - 1
STATES = ["OK", "WARNING", "CRITICAL", "UNKNOWN"]
PARSE = """
    print encode_json([map {
        { label => $_->label, value => $_->value, uom => $_->uom, warning => $_->warning,
          critical => $_->critical, min => $_->min, max => $_->max }
    } Monitoring::Plugin::Performance->parse_perfstring($ARGV[0])])
"""


def run(*arguments: str, before: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*before, str(exporter_path()), "status", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)


def flags(dovecot: Dovecot) -> list[str]:
    return [
        f"--dovecot.config={dovecot.config}",
        f"--dovecot.doveconf={dovecot.doveconf}",
        f"--dovecot.log-file={dovecot.log_path}",
    ]


def look(*arguments: str) -> dict[str, Any]:
    found = run("--json", *arguments)
    if (found.returncode, found.stderr) != (0, ""):
        raise RuntimeError(f"{found}")
    assert found.stdout.count("\n") == 1
    answer: dict[str, Any] = json.loads(found.stdout)
    answer["by_name"] = {service["service"]: service for service in answer["services"]}
    return answer


def parse_performance(text: str) -> dict[str, dict[str, Any]]:
    """As the monitoring plugins' own library reads it."""
    perl = ["perl", "-MMonitoring::Plugin::Performance", "-MJSON::PP", "-e", PARSE, text]
    parsed = json.loads(subprocess.run(perl, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout)
    return {item["label"]: item for item in parsed}


class Check:
    """What `--check` said."""

    def __init__(self, *arguments: str, before: Sequence[str] = ()) -> None:
        found = run("--check", *arguments, before=before)
        assert found.stderr == "" and found.stdout.count("\n") == 1, found
        form = re.fullmatch(r"DOVECOT ([A-Z]+) - ([^|]+?)(?: \| ([^|]+))?\n", found.stdout)
        assert form, found.stdout
        self.state, self.text, performance = form.groups()
        assert STATES[found.returncode] == self.state, found
        self.data = parse_performance(performance) if performance else {}


class Status:
    """The same for both generations."""

    generation: str

    def start(self: Any, **options: Any) -> Dovecot:
        options.setdefault("services", {SERVICE: {"process_limit": LIMIT}})
        # A name that no other Dovecot on the machine has.
        options.setdefault("instance_name", "status-lab")
        return self.enterContext(Dovecot(self.generation, **options))

    def test_as_doveadm_and_the_exporter_have_it(self: Any) -> None:
        dovecot = self.start(verbose_proctitle=True)
        exporter = self.enterContext(Exporter(dovecot))
        clients = self.enterContext(Clients(dovecot))
        clients.idle(4)
        # Titles have it as the client wrote it.
        small = clients.logged_in(2, tls=True)[0]
        small.connection.send(b"small idle\r\n")
        self.assertTrue(small.connection.readline().startswith(b"+ "))
        clients.logged_in(3)
        clients.pre_auth(1)

        def of_doveadm() -> dict[str, tuple[Any, ...]]:
            def limit(number: int) -> Any:
                return "unlimited" if number == UNLIMITED else number

            return {
                name: (row["process_count"], limit(row["process_limit"]), limit(row["client_limit"]))
                for name, row in dovecot.services().items()
            }

        fields = ("processes_counted", "process_limit", "client_limit")

        def agree() -> bool:
            before = of_doveadm()
            here, there = look(*flags(dovecot)), look("--from", exporter.address)
            self.last = (before, here["by_name"])
            told = {name: tuple(row.get(field) for field in fields) for name, row in here["by_name"].items()}
            # Of services that do nothing, counts are not shown.
            expected = {name: row if told[name][0] is not None else (None, *row[1:]) for name, row in before.items()}
            timed = {"processes_peak", "at_process_limit_seconds", "resident_memory_bytes", "process_starts"}
            bare = [
                {name: {k: v for k, v in row.items() if k not in timed} for name, row in answer["by_name"].items()}
                for answer in (here, there)
            ]
            return told == expected and bare[0] == bare[1] and here["host"].keys() == there["host"].keys()

        wait_until(agree, PATIENCE, "the three to agree")
        row = look(SERVICE, *flags(dovecot))["services"]
        self.assertEqual([service["service"] for service in row], [SERVICE])
        # 6 logged in over TLS, and one that has not logged in.
        wait_until(lambda: look(*flags(dovecot))["by_name"][SERVICE]["in_use"] == 7, PATIENCE, "seven")
        row = look(*flags(dovecot))["by_name"][SERVICE]
        self.assertEqual((row["capacity"], row["mode"], row["drop_warnings"]), (LIMIT, "high-security", 0))
        self.assertEqual(row["processes"], len(dovecot.processes(SERVICE)))

        # Who has most.
        clients.logged_in(1, tls=True)
        sessions = [line.split("\t") for line in dovecot.admin("-f", "tab", "who", "-1").splitlines()]
        users, addresses = sessions[0].index("username"), sessions[0].index("ip")
        top = look("--top=1000", *flags(dovecot))["top"]
        self.assertEqual(top["source"], "doveadm who and process titles")
        for what, column in (("user", users), ("address", addresses)):
            expected = collections.Counter(row[column] for row in sessions[1:])
            rows = top["addresses" if what == "address" else "users"]
            self.assertEqual({row[what]: row["connections"] for row in rows}, expected)
            self.assertEqual(sum(row["idle"] for row in rows), 5)
        self.assertEqual(len(look("--top=2", *flags(dovecot))["top"]["users"]), 2)
        shown = run("--top=2", *flags(dovecot)).stdout
        self.assertIn("by doveadm who and process titles", shown)
        # Without doveadm there are those whose titles name them: all that are idle.
        without = [flag for flag in flags(dovecot) if "doveconf" not in flag]
        alone = look("--top=1000", "--dovecot.doveconf=/nonexistent/doveconf", *without)["top"]
        self.assertEqual(alone["source"], "process titles")
        idle = {row["user"] for row in alone["users"] if row["idle"]}
        self.assertEqual(idle, {client.user for client in clients.held[:4]} | {small.user})

    def test_load_is_what_the_rules_take_for_it(self: Any) -> None:
        dovecot = self.start()
        clients = self.enterContext(Clients(dovecot))
        clients.idle(4)
        for more in ((), ("--dovecot.master-socket=",)):
            with self.subTest(more), Exporter(dovecot, *more) as exporter:
                with Prometheus([exporter.address], rules=[REPOSITORY / "alerts/dovecot.rules.yml"]) as prometheus:

                    def of_rules(name: str) -> dict[str, Any]:
                        series = prometheus.query(f"instance_service:dovecot_service_clients:{name}")
                        return {labels["service"]: "unlimited" if math.isinf(value) else value for labels, value in series}

                    def agree() -> bool:
                        rows = look(*flags(dovecot), *more)["services"]
                        return all(
                            len(of_rules(rule)) > 1 and of_rules(rule) == {row["service"]: row[rule] for row in rows if rule in row}
                            for rule in ("in_use", "capacity")
                        )

                    wait_until(agree, PATIENCE, "the rules to be evaluated, and to agree")

    def test_top_without_titles(self: Any) -> None:
        dovecot = self.start()
        clients = self.enterContext(Clients(dovecot))
        clients.idle(3)
        top = look("--top=5", *flags(dovecot))["top"]
        self.assertEqual(top["source"], "doveadm who")
        self.assertEqual(top["addresses"], [{"address": "127.0.0.1", "connections": 3}])
        self.assertEqual({row["user"] for row in top["users"]}, {"u1", "u2", "u3"})
        # Nobody tells.
        without = [flag for flag in flags(dovecot) if "doveconf" not in flag]
        nobody = look("--top=5", "--dovecot.doveconf=/nonexistent/doveconf", *without)["top"]
        self.assertIn("verbose_proctitle", nobody["unknown"])

    def test_check(self: Any) -> None:
        dovecot = self.start()
        here = flags(dovecot)
        clients = self.enterContext(Clients(dovecot))
        clients.idle(7)

        def in_state(state: str, *more: str) -> Check:
            def found() -> Check | None:
                check = Check(*here, *more)
                return check if check.state == state else None

            return wait_until(found, PATIENCE, state)

        in_use = lambda: Check(*here).data[SERVICE]["value"] == 7  # noqa: E731
        wait_until(in_use, PATIENCE, "seven clients")
        found = in_state("OK")
        self.assertIn(f"{SERVICE} is the fullest: 7 of {LIMIT} connections in use (70%)", found.text)
        data = {"label": SERVICE, "value": 7, "uom": "", "warning": "8", "critical": "10", "min": "0", "max": "10"}
        self.assertEqual(found.data[SERVICE], data)
        self.assertEqual((found.data[f"{SERVICE}_drop_warnings"]["value"], found.data[f"{SERVICE}_drop_warnings"]["uom"]), (0, "c"))
        self.assertEqual(set(Check("imap", *here).data), {"imap", "imap_drop_warnings"})
        # Thresholds.
        self.assertEqual(in_state("WARNING", "--warning=70").data[SERVICE]["warning"], "7")
        self.assertEqual(in_state("CRITICAL", "--warning=60", "--critical=70").data[SERVICE]["critical"], "7")
        self.assertEqual(Check("imap", *here, "--warning=60", "--critical=70").state, "OK")
        clients.idle(1)
        self.assertIn("(80%)", in_state("WARNING").text)
        clients.idle(2)
        self.assertIn("is full", in_state("CRITICAL").text)
        clients.knock(5, timeout=PATIENCE, until=lambda: dovecot.warnings(SERVICE))
        clients.close()
        # It is over, and was a moment ago.
        recent = wait_until(
            lambda: (check := Check(*here)) and "turned clients away" in check.text and check,
            PATIENCE,
            "the check to tell of the warning",
        )
        self.assertEqual(recent.state, "CRITICAL")
        drops = len(dovecot.warnings(SERVICE))
        self.assertEqual(recent.data[f"{SERVICE}_drop_warnings"]["value"], drops)
        self.assertEqual(look(*here)["by_name"][SERVICE]["drop_warnings"], drops)
        # Nobody but this service is in trouble.
        self.assertEqual(Check("imap", *here).state, "OK")

    def test_old_warnings(self: Any) -> None:
        dovecot = self.start()
        warning = f"master: Warning: service({SERVICE}): process_limit (5) reached, client connections are being dropped"
        log = dovecot.lab / "other.log"
        # The master would know its limit better.
        here = [*flags(dovecot)[:2], f"--dovecot.log-file={log}", "--dovecot.master-socket="]
        log.write_text(f"2020-01-02T03:04:05Z {warning}\n" * 3)
        self.assertEqual(Check(*here).state, "OK")
        answer = look(*here)
        self.assertEqual(answer["by_name"][SERVICE]["drop_warnings"], 3)
        self.assertEqual(answer["warnings_counted_since"], {"time": "2020-01-02T03:04:05Z", "what": str(log)})
        self.assertEqual([trouble["level"] for trouble in answer["troubles"]], ["past"])
        # People have it by their own clock.
        shown = run(*here, env={**os.environ, "TZ": "JST-9"}).stdout
        self.assertIn("since 2020-01-02 12:04: 3 drop warnings (the last at 2020-01-02\n   12:04)", shown)
        # Its limit was another one then.
        self.assertEqual(answer["by_name"][SERVICE]["process_limit"], LIMIT)
        now = subprocess.run(["date", "+%b %d %H:%M:%S"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
        log.write_text(f"2020-01-02T03:04:05Z {warning}\n{now.stdout.strip()} {warning}\n")
        self.assertEqual(Check(*here).state, "CRITICAL")
        # Without a time it may be one or the other.
        log.write_text(f"{warning}\n")
        self.assertIn("no time stamps", Check(*here).text)
        # Nor can it be said that all is well if nobody may look.
        self.assertIn("is not there", Check(*here[:2], "--dovecot.log-file=/nonexistent/log").text)

    def test_state_is_read_and_left_alone(self: Any) -> None:
        dovecot = self.start()
        state = dovecot.lab / "state.json"
        exporter = self.enterContext(Exporter(dovecot, f"--state.file={state}"))
        clients = self.enterContext(Clients(dovecot))
        clients.idle(LIMIT)
        clients.knock(5, timeout=PATIENCE, until=lambda: dovecot.warnings(SERVICE))
        clients.close()
        wait_until(lambda: state.exists() and b'"drop_warnings":{"process":' in state.read_bytes(), PATIENCE, "the state")
        exporter.stop()
        before = (state.read_bytes(), state.stat().st_mtime_ns, sorted(os.listdir(dovecot.lab)))
        answer = look(f"--state.file={state}", *flags(dovecot))
        self.assertEqual(answer["by_name"][SERVICE]["drop_warnings"], len(dovecot.warnings(SERVICE)))
        self.assertIn(str(state), answer["warnings_counted_since"]["what"])
        self.assertEqual((state.read_bytes(), state.stat().st_mtime_ns, sorted(os.listdir(dovecot.lab))), before)
        # One that is none is said, and left alone as well.
        state.write_text("{}")
        self.assertIn("no state", look(f"--state.file={state}", *flags(dovecot))["sources_down"]["state"])
        self.assertEqual(state.read_text(), "{}")

    def test_without_privilege(self: Any) -> None:
        dovecot = self.start()
        program = dovecot.lab / "exporter"
        shutil.copy(exporter_path(), program)
        clients = self.enterContext(Clients(dovecot))
        clients.idle(5)
        arguments = [f"--dovecot.config={dovecot.config}", "--dovecot.doveconf=/usr/bin/doveconf"]

        def check(*more: str) -> tuple[int, str]:
            command = [*dovecot.enter_root, *as_nobody(), str(program), "status", "--check", *arguments, *more]
            found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            return found.returncode, found.stdout

        # The log is for root. What is in it is not known, and neither is that there is nothing.
        code, text = check(f"--dovecot.log-file={dovecot.log_path}")
        self.assertEqual(code, 3, text)
        self.assertIn("may not be read", text)
        self.assertNotIn("drop_warnings", text)
        command = [*dovecot.enter_root, *as_nobody(), str(program), "status", *arguments, f"--dovecot.log-file={dovecot.log_path}"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout
        self.assertTrue(shown.startswith("Nothing is wrong, as far as can be seen.\n"), shown)
        self.assertRegex(shown, rf"(?m)^{SERVICE} \[#+\.+\] +5/10 +5/10 +0 +\? ")
        self.assertNotIn("Warnings are counted", shown)
        log = dovecot.lab / "readable.log"
        log.write_text("")
        # A process for each client: processes tell, as they do not where clients share them.
        code, text = check(f"--dovecot.log-file={log}")
        self.assertEqual(code, 0, text)
        self.assertIn(f"5 of {LIMIT} connections", text)
        clients.close()
        dovecot.write_config(services={SERVICE: PERFORMANCE_MODE})
        dovecot.reload()
        code, text = check(f"--dovecot.log-file={log}")
        self.assertEqual(code, 3, text)
        self.assertIn(f"How full {SERVICE} is cannot be told", text)
        self.assertIn("root only", text)

    def test_nothing_to_see(self: Any) -> None:
        dovecot = self.start()
        here = flags(dovecot)
        self.assert_sentence("nosuch", *here, words="no service nosuch")
        self.assert_sentence(*here, "--path.procfs=/nonexistent", "--dovecot.master-socket=", words="/nonexistent")
        exporter = self.enterContext(Exporter(dovecot))
        dovecot.stop()
        self.assert_sentence(*here, words="no Dovecot runs")
        self.assert_sentence("--from", exporter.address, words="no Dovecot runs on the host of")

    def assert_sentence(self: Any, *arguments: str, words: str) -> None:
        found = run(*arguments)
        self.assertEqual((found.returncode, found.stdout, found.stderr.count("\n")), (1, "", 1), found)
        self.assertIn(words, found.stderr)
        self.assertEqual(run("--json", *arguments).stdout, "")
        check = Check(*arguments)
        self.assertEqual((check.state, check.data), ("UNKNOWN", {}))
        self.assertIn(words, check.text)

    def test_what_cannot_be_written(self: Any) -> None:
        here = flags(self.start())
        for more, code in ((), 1), (("--json",), 1), (("--watch=1",), 1), (("--check",), 3):
            with self.subTest(more), open("/dev/full", "w") as full:
                command = [str(exporter_path()), "status", *here, *more]
                found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
                self.assertEqual((found.returncode, found.stderr.count("\n")), (code, 1), found)
                self.assertIn("No space left", found.stderr)
        # Whoever has read enough is no trouble.
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as gone:
            watch = subprocess.run(
                [str(exporter_path()), "status", *here, "--watch=1"], stdout=gone, stderr=subprocess.PIPE, timeout=PATIENCE
            )
        self.assertEqual((watch.returncode, watch.stderr), (0, b""))

    def test_interrupted_before_it_has_seen_anything(self: Any) -> None:
        dovecot = self.start()
        here, pid = self.slow(dovecot)
        for told, code in (signal.SIGINT, 130), (signal.SIGTERM, 143):
            with self.subTest(told):
                command = [str(exporter_path()), "status", *here]
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as look:
                    started = wait_until(lambda: pid.exists() and pid.read_text().strip(), PATIENCE, "doveconf")
                    look.send_signal(told)
                    # Not after the 10 s that doveconf has.
                    self.assertEqual((look.wait(8), look.stdout.read()), (code, b""))
                # Nor is that left behind.
                wait_until(lambda: not os.path.exists(f"/proc/{started}"), PATIENCE, "doveconf to end")
                pid.unlink()

    def slow(self: Any, dovecot: Dovecot) -> tuple[list[str], Path]:
        """Flags for a `doveconf` that hangs, and where that says its process."""
        slow, pid = dovecot.lab / "slow", dovecot.lab / "slow.pid"
        slow.write_text(f"#!/bin/sh\necho $$ >{pid}\nexec sleep 1000\n")
        slow.chmod(0o755)
        return [f"--dovecot.config={dovecot.config}", f"--dovecot.doveconf={slow}", f"--dovecot.log-file={dovecot.log_path}"], pid

    def test_a_check_has_an_end(self: Any) -> None:
        dovecot = self.start()
        here, pid = self.slow(dovecot)
        # Not what it says after the 10 s that doveconf has.
        self.assertIn("within 1 s", Check(*here, "--timeout=1").text)
        started = pid.read_text().strip()
        wait_until(lambda: not os.path.exists(f"/proc/{started}"), PATIENCE, "doveconf to end")
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            found = Check(f"--from=127.0.0.1:{silent.getsockname()[1]}", "--timeout=1")
        self.assertEqual(found.state, "UNKNOWN")
        self.assertIn("within 1 s", found.text)

    def test_a_log_whose_file_system_hangs(self: Any) -> None:
        dovecot = self.start()
        seen = dovecot.lab / "seen"
        seen.mkdir()
        subprocess.run(["bindfs", dovecot.log_path.parent, seen], check=True)
        [server] = subprocess.run(["pgrep", "-f", f"^bindfs .* {seen}$"], capture_output=True, text=True, check=True).stdout.split()
        try:
            os.kill(int(server), signal.SIGSTOP)
            found = Check(*flags(dovecot)[:2], f"--dovecot.log-file={seen / dovecot.log_path.name}", "--timeout=1")
            self.assertEqual(found.state, "UNKNOWN")
            self.assertIn("within 1 s", found.text)
        finally:
            os.kill(int(server), signal.SIGCONT)
            subprocess.run(["umount", seen], check=True)

    def test_without_descriptors(self: Any) -> None:
        here = flags(self.start())
        # With fewer no program starts.
        for number in range(4, 12):
            with self.subTest(number):
                found = run("--check", *here, before=["prlimit", f"--nofile={number}"])
                self.assertEqual(found.stdout.count("\n"), 1, found)
                self.assertTrue(found.stdout.startswith(f"DOVECOT {STATES[found.returncode]} - "), found)

    def test_services_that_are_never_short(self: Any) -> None:
        here = flags(self.start(services={SERVICE: {"process_limit": LIMIT}, "doveadm": {"process_limit": 1}}))
        for service, words in ("auth-worker", "processes that wait for it"), ("doveadm", "one client at a time"):
            found = Check(service, *here)
            self.assertEqual(found.state, "OK", found.text)
            self.assertIn(words, found.text)

    def test_a_log_that_is_a_pipe(self: Any) -> None:
        dovecot = self.start()
        pipe = dovecot.lab / "pipe"
        os.mkfifo(pipe)
        self.assertIn("no regular file", Check(*flags(dovecot)[:2], f"--dovecot.log-file={pipe}").text)

    def test_watch(self: Any) -> None:
        dovecot = self.start()
        command = [str(exporter_path()), "status", "--watch=1", "--json", *flags(dovecot)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            clients = self.enterContext(Clients(dovecot))
            first = json.loads(watch.stdout.readline())
            clients.idle(3)
            counts = []

            def grown() -> bool:
                answer = json.loads(watch.stdout.readline())
                [service] = [service for service in answer["services"] if service["service"] == SERVICE]
                counts.append(service["in_use"])
                return counts[-1] == 3

            self.assertEqual(first["troubles"], [])
            wait_until(grown, PATIENCE, "three clients in a later line")
            watch.send_signal(signal.SIGTERM)
            self.assertEqual(watch.wait(PATIENCE), 143)

    def test_in_a_terminal(self: Any) -> None:
        dovecot = self.start()
        clients = self.enterContext(Clients(dovecot))
        clients.idle(LIMIT)
        clients.knock(5, timeout=PATIENCE, until=lambda: dovecot.warnings(SERVICE))
        with tempfile.TemporaryDirectory(prefix="tmux-") as folder:
            tmux = ["tmux", "-S", f"{folder}/socket", "-f", "/dev/null"]
            environment = {**os.environ, "LC_ALL": "C.UTF-8"}

            def terminal(*arguments: str) -> str:
                made = subprocess.run([*tmux, *arguments], capture_output=True, text=True, env=environment, check=True)
                return made.stdout

            command = " ".join([str(exporter_path()), "status", "--watch=1", "--top=2", *flags(dovecot)])
            # tmux itself does not always tell the exit code.
            command = f"trap : INT; {command}; echo ended with $?"
            terminal("new-session", "-d", "-x", "80", "-y", "24", command, ";", "set-option", "remain-on-exit", "on")
            try:
                full = wait_until(
                    lambda: (screen := terminal("capture-pane", "-p")) and "10/10" in screen and screen, PATIENCE, "a full bar"
                )
                self.assertRegex(full, r"(?m)^imap-login +█+ +10/10 +10/10 ")
                # Nothing was wrapped: each line begins with what it should.
                self.assertTrue(full.startswith(f"!! {SERVICE} turn"), full)
                for line in filter(None, full.splitlines()):
                    self.assertRegex(line, r"^(!! |  +[0-9]+ +[0-9?]+  |  +\(?[a-zA-Z]|  \(/tmp|-  |service|[a-z-]+ +[█░]|[a-z-]+ |And |High-|Warnings|Nothing|Connections|Not seen)")
                # In red, ...
                self.assertIn("\x1b[31m", terminal("capture-pane", "-p", "-e"))
                clients.close()
                # ... and drawn anew in the same place.
                emptied = wait_until(
                    lambda: (screen := terminal("capture-pane", "-p")) and "0/10 " in screen and "10/10" not in screen and screen,
                    PATIENCE,
                    "an empty bar",
                )
                self.assertEqual(emptied.count("connections processes"), 1)
                # In a narrow and low one lines are cut, and the first does not scroll away.
                terminal("resize-window", "-x", "50", "-y", "10")
                wait_until(
                    lambda: re.match(rf"!! {SERVICE} turn.*\n(   .*\n)+\n?service +connections proces\n", terminal("capture-pane", "-p")),
                    PATIENCE,
                    "lines that are cut",
                )
                terminal("send-keys", "C-c")
                wait_until(lambda: "ended with 130\n" in terminal("capture-pane", "-p"), PATIENCE, "the end")
            finally:
                terminal("kill-server")


class Status23(Status, unittest.TestCase):
    generation = "2.3"


class Status24(Status, unittest.TestCase):
    generation = "2.4"


class Journal(unittest.TestCase):
    def test_the_last_hour_of_it(self) -> None:
        room = self.enterContext(Room())
        journald = self.enterContext(Journald(room))
        services = {SERVICE: {"process_limit": LIMIT}}
        dovecot = self.enterContext(LoggingDovecot("2.3", room, services=services))
        clients = self.enterContext(Clients(dovecot))

        def logged() -> int:
            entries = journald.entries("SYSLOG_IDENTIFIER=dovecot", "_UID=0").values()
            return sum(f"service({SERVICE}): process_limit" in entry for entry in entries)

        here = [*flags(dovecot)[:2], "--dovecot.log-journal"]
        none = Check(*here, before=room.enter)
        self.assertEqual((none.state, none.data[f"{SERVICE}_drop_warnings"]["value"]), ("OK", 0))
        clients.idle(LIMIT)
        clients.knock(5, timeout=PATIENCE, until=logged)
        clients.close()

        def told() -> Check | None:
            check = Check(*here, before=room.enter)
            return check if check.data[f"{SERVICE}_drop_warnings"]["value"] == logged() else None

        self.assertEqual(wait_until(told, PATIENCE, "the warnings").state, "CRITICAL")
        # No journalctl is left behind.
        found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        self.assertNotIn("--since=-1h", found)


class Answer(http.server.BaseHTTPRequestHandler):
    """Sends `body` and closes, as HTTP/1.0 has it: nothing says how long it was to be."""

    body = b""
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        try:
            self.wfile.write(self.body)
        except OSError:
            pass  # it was too much for them

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(body: bytes, tls: ssl.SSLContext | None = None, status: int = 200) -> Iterator[str]:
    """The address of a server that has nothing but this."""
    handler = type("Handler", (Answer,), {"body": body, "status": status})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # they refuse us, as they should
    if tls is not None:
        # Each with its own thread: a client that refuses the certificate ends only that.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def certificate(folder: Path, address: str) -> tuple[Path, ssl.SSLContext]:
    """An authority, and a server that shows a certificate of it for `address`."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority, chain, key = folder / "authority.pem", folder / "chain.pem", folder / "key.pem"
    for options in (
        ["-subj", "/CN=authority", "-keyout", key, "-out", authority],
        ["-subj", "/CN=server", "-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=critical,CA:FALSE"]
        + ["-CA", authority, "-CAkey", key, "-keyout", folder / "server.key", "-out", chain],
    ):
        subprocess.run([*new, *options], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, folder / "server.key")
    return authority, tls


class From(unittest.TestCase):
    """Pages that are none, and servers that are not believed."""

    def assert_refused(self, body: bytes, words: str) -> None:
        with serving(body) as address:
            Status.assert_sentence(self, "--from", address, words=words)

    def test_over_tls(self) -> None:
        with Dovecot("2.3", instance_name="status-lab") as dovecot, Exporter(dovecot) as exporter:
            page = exporter.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[2].encode()
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        authority, tls = certificate(folder, "127.0.0.1")

        def asked(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
            return run("--json", "--from", address, env={**os.environ, **environment})

        def services(found: subprocess.CompletedProcess[str]) -> Any:
            self.assertEqual((found.returncode, found.stderr), (0, ""))
            return json.loads(found.stdout)["services"]

        with serving(page) as plain, serving(page, tls) as address:
            trusted = services(asked(f"https://{address}", SSL_CERT_FILE=str(authority)))
            self.assertEqual(trusted, services(asked(plain)))
            self.assertIn(SERVICE, [row["service"] for row in trusted])
            # By the authorities that the system trusts, which do not know ours; and in plain text.
            Status.assert_sentence(self, "--from", f"https://{address}", words="certificate")
            Status.assert_sentence(self, "--from", address, words="cannot be read")
        authority, tls = certificate(folder, "127.0.0.2")
        with serving(page, tls) as address:
            other = asked(f"https://{address}", SSL_CERT_FILE=str(authority))
            self.assertEqual((other.returncode, other.stdout, other.stderr.count("\n")), (1, "", 1), other)
            self.assertIn("certificate", other.stderr)

    def test_passwords_are_not_told(self) -> None:
        with serving(b"") as address, serving(b"", status=401) as locked:
            nobody = f"127.0.0.1:{free_port()}/x@y"
            for url in (f"http://me:s3cret@{address}", f"me:s3cret@{address}", f"http://me:s3cret@{nobody}", f"http://me:s3cret@{locked}"):
                for more in ((), ("--check",)):
                    found = run("--from", url, *more)
                    self.assertNotIn("s3cret", found.stdout + found.stderr)
                    self.assertIn("127.0.0.1", found.stdout + found.stderr)

    def test_no_page_of_an_exporter(self) -> None:
        with Dovecot("2.3", instance_name="status-lab") as dovecot, Exporter(dovecot) as exporter:
            dovecot.stop()
            page = exporter.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[2].encode()
        self.assert_refused(page, "no Dovecot runs on the host of")
        for length in (len(page) // 2, len(page) - 2, len(page) - 6):
            self.assert_refused(page[:length], "it has no end")
        self.assert_refused(b"", "it has no end")
        self.assert_refused(b"<html></html>\n# EOF\n", "line 1 is no sample")
        self.assert_refused(b"up 1\n# EOF\n", "of another program")
        self.assert_refused(b"\xff\x00\n# EOF\n", "line 1 is no sample")
        self.assert_refused(gzip.compress(page), "it has no end")
        self.assert_refused(b"x 1\n" * (5 << 20), "no page of this exporter")

    def test_nobody_answers(self) -> None:
        Status.assert_sentence(self, "--from", f"127.0.0.1:{free_port()}", words="cannot be read")
        Status.assert_sentence(self, "--from", "http://", words="cannot be read")
        Status.assert_sentence(self, "--from", "ftp://127.0.0.1/", words="cannot be read")
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            Status.assert_sentence(self, "--from", f"127.0.0.1:{silent.getsockname()[1]}", words="timeout")

    def test_flags(self) -> None:
        for wrong in (["--warning=90", "--critical=80"], ["--warning=0"], ["--critical=101"], ["--watch"], ["no service"]):
            with self.subTest(wrong):
                self.assertEqual(Check(*wrong).state, "UNKNOWN")
        self.assertEqual(run("--warning=50").returncode, 2)
        self.assertEqual(run("--dovecot.log-file=-").returncode, 2)


if __name__ == "__main__":
    unittest.main()

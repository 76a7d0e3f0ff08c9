"""`advise`: real Dovecots take what it prints, and it heals the overload that led to it; a real Prometheus tells peak and growth."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import resource
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imap_clients import Clients
from lab import PERFORMANCE_MODE, Dovecot, Exporter, Prometheus, as_nobody, exporter_path, free_port, wait_until
from test_status import flags

SERVICE = "imap-login"
LIMIT = 5
PATIENCE = 60
FILES = 700
TOO_LOW = re.compile(r"(service (?:auth|anvil) \{ client_limit=\d+ \}|fd limit \(ulimit -n\)) is lower than required")
CLIENTS = "instance_service:dovecot_service_clients:in_use"
WARNINGS = "instance_service:dovecot_service_drop_warnings:increase5m"
HOUR = 3600
DAY = 24 * HOUR


def run(*arguments: str, before: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*before, str(exporter_path()), "advise", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)


def ask(*arguments: str) -> dict[str, Any]:
    found = run("--json", *arguments)
    if (found.returncode, found.stderr) != (0, ""):
        raise RuntimeError(f"{found}")
    assert found.stdout.count("\n") == 1
    return json.loads(found.stdout)


@contextlib.contextmanager
def open_files(number: int) -> Iterator[None]:
    """Processes that are started meanwhile may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def start_warnings(dovecot: Dovecot, since: int = 0) -> set[str]:
    """What Dovecot says of limits that are too low: at its start, and by doveconf."""
    doveconf = subprocess.run([dovecot.doveconf, "-n", "-c", dovecot.config], capture_output=True, text=True, timeout=PATIENCE)
    said = dovecot.log_text()[since:] + (dovecot.lab / "stderr").read_text() + doveconf.stderr
    return set(TOO_LOW.findall(said)) if doveconf.returncode == 0 else {doveconf.stderr}


def says(test: unittest.TestCase, code: int, text: str) -> str:
    """The address of a server that answers everything so."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    for end in (server.server_close, thread.join, server.shutdown):
        test.addCleanup(end)
    return f"127.0.0.1:{server.server_port}"


def check_unit(lines: Sequence[str]) -> None:
    """systemd takes these for its unit of Dovecot."""
    with tempfile.TemporaryDirectory() as folder:
        unit, more = Path(folder, "dovecot.service"), Path(folder, "dovecot.service.d")
        unit.write_text("[Service]\nExecStart=/usr/sbin/dovecot -F\n")
        more.mkdir()
        (more / "override.conf").write_text("\n".join(["[Service]", *lines, ""]))
        command = ["systemd-analyze", "verify", "dovecot.service"]
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
        found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
        if found.returncode or folder in found.stderr:
            raise AssertionError(found.stderr)


class Advise:
    """The same for both generations."""

    generation: str

    def start(self: Any, **services: Any) -> Dovecot:
        services = {SERVICE: {"process_limit": LIMIT}, **services}
        return self.enterContext(Dovecot(self.generation, instance_name="advise-lab", services=services))

    def overload(self: Any, dovecot: Dovecot, clients: Clients) -> None:
        clients.idle(LIMIT)
        clients.knock(LIMIT, PATIENCE, until=lambda: dovecot.warnings(SERVICE))
        self.assertTrue(dovecot.warnings(SERVICE))

    def apply(self: Any, dovecot: Dovecot, option: dict[str, Any]) -> None:
        """Pastes it, and does what it says; not within the second of the last warning, which is all that the log tells."""
        last = time.time()
        wait_until(lambda: time.time() >= last + 2, PATIENCE, "two seconds")
        with dovecot.config.open("a") as config:
            config.write(option["block"])
        checked = subprocess.run([dovecot.doveconf, "-n", "-c", dovecot.config], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertNotRegex(checked.stderr, "Error|Fatal|lower than required")
        if not option["restart"]:
            dovecot.reload()
            return
        if option["unit"]:
            check_unit(option["unit"])
        unit = dict(line.split("=") for line in option["unit"])
        files = int(unit.pop("LimitNOFILE", FILES))
        self.assertEqual(unit, {})
        dovecot.stop()
        with open_files(files):
            dovecot.start()

    def heal(self: Any, way: str, restart: bool, recommended: str = "processes", **services: Any) -> None:
        with open_files(FILES if restart else 65535):
            dovecot = self.start(**services)
        before = start_warnings(dovecot)
        self.assertEqual(len(before), 3 if restart else 0, before)
        with Clients(dovecot) as clients:
            self.overload(dovecot, clients)
            text = run(*flags(dovecot)).stdout
            answer = ask(*flags(dovecot))
        option = next(option for option in answer["options"] if option["way"] == way)
        self.assertIn(f"\n{option['block']}\n", text)
        self.assertEqual((answer["peak"], answer["peak_cut_off"], answer["confidence"]), (LIMIT, True, "low"))
        self.assertEqual((option["restart"], answer["recommended"]), (restart, recommended))
        self.assertTrue(answer["dovecot_version"].startswith(self.generation))
        self.assertGreater(option["clients"], LIMIT)
        if not restart:
            stays = f"The queue for waiting clients stays at {LIMIT} for each address and port until a restart."
            self.assertIn(stays, " ".join(text.split()))
        own = option["block"].partition("}")[0]
        self.assertEqual("vsz_limit" in own, way == "shared" and restart, own)
        mark, warned = len(dovecot.log_text()), len(dovecot.warnings())
        self.apply(dovecot, option)
        status = dovecot.service_status(SERVICE)
        self.assertEqual(status["process_limit"] * status["client_limit"], option["capacity"])
        self.assertEqual(start_warnings(dovecot, mark), set())
        # As many as it said, over TLS and logged in, and those that knocked in vain.
        with Clients(dovecot) as clients:
            clients.idle(option["clients"] - LIMIT)
            knocked = clients.knock(LIMIT, PATIENCE)
            self.assertEqual([outcome.name for outcome in knocked], ["GREETED"], knocked)
            settled = ask(*flags(dovecot))
        self.assertEqual(len(dovecot.warnings()), warned)
        # It no longer takes the warnings of before for the present.
        self.assertFalse(settled["peak_cut_off"], settled["seen"])

    def test_processes_by_reload(self: Any) -> None:
        self.heal("processes", False)

    def test_shared_by_reload(self: Any) -> None:
        self.heal("shared", False)

    def test_processes_and_all_that_must_follow(self: Any) -> None:
        self.heal("processes", True, **self.low())

    def test_shared_and_all_that_must_follow(self: Any) -> None:
        self.heal("shared", True, **self.low())

    def test_full_in_performance_mode(self: Any) -> None:
        settings = {**PERFORMANCE_MODE, "process_limit": 1, "client_limit": LIMIT}
        for way in ("processes", "shared"):
            with self.subTest(way):
                self.heal(way, False, recommended="shared", **{SERVICE: settings})

    def low(self: Any) -> dict[str, Any]:
        """Each of these is too low for more than there is."""
        return {
            # Too little for 1,000 clients, and enough for one.
            SERVICE: {"process_limit": LIMIT, "vsz_limit": "128M"},
            "auth": {"client_limit": 80},
            "anvil": {"client_limit": 90},
            "stats": {"client_limit": 25},
            "imap": {"process_limit": LIMIT + 1},
        }

    def wrapper(self: Any, folder: Path, tool: Path, script: str) -> Path:
        """A program in place of `tool`."""
        path = folder / tool.name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def test_commands_as_they_are_pasted(self: Any) -> None:
        """Into a shell, which reads blanks and quotes its own way."""
        dovecot = self.start()
        folder = dovecot.lab / "it's a $(place)"
        folder.mkdir()
        for tool in (dovecot.doveconf, dovecot.doveadm):
            self.wrapper(folder, tool, f'exec {tool} "$@"')
        config = folder / "dovecot.conf"
        config.symlink_to(dovecot.config)
        here = [f"--dovecot.config={config}", f"--dovecot.doveconf={folder / 'doveconf'}", f"--dovecot.log-file={dovecot.log_path}"]
        with Clients(dovecot) as clients:
            clients.idle(LIMIT)
            text = run(*here).stdout
        self.apply(dovecot, {"block": f"service {SERVICE} {{\n  process_limit = {LIMIT * 2}\n}}\n", "restart": False})
        found = re.findall(r"^  \d\. (Bring it into force|Verify).*:\n((?:       .*\n)+)", text, re.MULTILINE)
        self.assertEqual([what for what, _ in found], ["Bring it into force", "Verify"] * 2, text)
        for what, command in found:
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 0, (command, done))
            self.assertEqual("process_limit: 10" in done.stdout, what == "Verify", done)

    def test_interrupted(self: Any) -> None:
        """Whenever that is, no doveconf is left behind that hangs."""
        dovecot = self.start()
        pid = dovecot.lab / "doveconf.pid"
        hang = f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000"
        (dovecot.lab / "slow").mkdir()
        for script in (hang, f'case " $* " in *" -n "*) {hang};; esac; exec {dovecot.doveconf} "$@"'):
            slow = self.wrapper(dovecot.lab / "slow", dovecot.doveconf, script)
            here = [flag for flag in flags(dovecot) if "doveconf=" not in flag]
            with self.subTest(script):
                command = [str(exporter_path()), "advise", *here, f"--dovecot.doveconf={slow}"]
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as advise:
                    wait_until(pid.exists, PATIENCE, "doveconf")
                    started = pid.read_text().strip()
                    advise.send_signal(signal.SIGINT)
                    self.assertEqual((advise.wait(PATIENCE), advise.stdout.read()), (130, b""))
                wait_until(lambda: not os.path.exists(f"/proc/{started}"), PATIENCE, "doveconf to end")
                pid.unlink()

    def test_other_services(self: Any) -> None:
        """`imap` has one remedy; what it needs is taken."""
        dovecot = self.start(**{SERVICE: {"process_limit": 20}, "imap": {"process_limit": LIMIT}})
        with Clients(dovecot) as clients:
            clients.idle(LIMIT)
            wait_until(lambda: ask("imap", *flags(dovecot))["in_use"] == LIMIT, PATIENCE, "the clients to be seen")
            answer = ask("imap", *flags(dovecot))
        (option,) = answer["options"]
        self.apply(dovecot, option)
        with Clients(dovecot) as clients:
            clients.idle(LIMIT * 2)
        self.assertEqual(dovecot.warnings("imap"), [])
        self.assertEqual(dovecot.service_status("imap")["process_limit"], option["clients"])

    def test_a_backend_and_one_that_nobody_uses(self: Any) -> None:
        dovecot = self.start()
        for service in ("doveadm", "dict"):
            answer = ask(service, *flags(dovecot))
            status = dovecot.service_status(service)
            self.assertEqual((answer["in_use"], answer["options"]), (0, []))
            self.assertEqual(answer["capacity"], status["process_limit"] * status["client_limit"])

    def test_never_beyond_memory(self: Any) -> None:
        """Of what none runs to be measured, too."""
        dovecot = self.start()
        values = {"metric": {"instance": "mail:9166"}, "values": [[time.time(), "90000000"]]}
        prometheus = says(self, 200, json.dumps({"data": {"result": [values]}}))
        for service in (SERVICE, "imap", "doveadm"):
            answer = ask(service, f"--prometheus={prometheus}", *flags(dovecot))
            self.assertEqual(answer["peak"], 90000000)
            self.assertTrue(answer["options"])
            self.assertFalse([option for option in answer["options"] if "block" in option])
            self.assertIn("not enough memory", answer["recommended_reason"])

    def test_limits_that_wait_for_a_reload(self: Any) -> None:
        """What is on disk is no less than what it would advise: it must not be lowered."""
        dovecot = self.start()
        with Clients(dovecot) as clients:
            clients.idle(LIMIT)
            dovecot.write_config(services={SERVICE: {"process_limit": LIMIT * 10}})
            answer = ask(*flags(dovecot))
            self.assertEqual((answer["peak"], answer["options"]), (LIMIT, []))
            self.assertIn(f"for {LIMIT * 10} clients already", answer["recommended_reason"])
            # Not enough.
            dovecot.write_config(services={SERVICE: {"process_limit": LIMIT + 1}})
            self.assertEqual(len(ask(*flags(dovecot))["options"]), 2)

    def test_nothing_to_do(self: Any) -> None:
        dovecot = self.start(**{SERVICE: {"process_limit": 100}})
        self.assertEqual(ask(*flags(dovecot))["options"], [])
        found = run(*flags(dovecot))
        self.assertIn("leave it as it is", found.stdout)
        self.assertTrue(all(len(line) <= 80 for line in found.stdout.splitlines()))
        with open("/dev/full", "w") as full:
            found = subprocess.run([exporter_path(), "advise", *flags(dovecot)], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual((found.returncode, found.stderr.count("\n")), (1, 1), found)

    def test_of_a_running_exporter(self: Any) -> None:
        """The exporter knows of a burst that is over."""
        dovecot = self.start()
        exporter = self.enterContext(Exporter(dovecot))
        with Clients(dovecot) as clients:
            clients.pre_auth(LIMIT)
            peak = "dovecot_service_processes_peak"
            wait_until(lambda: exporter.value(peak, service=SERVICE, window="1m") == LIMIT, PATIENCE, "the peak")
        wait_until(lambda: ask(*flags(dovecot))["in_use"] == 0, PATIENCE, "the end")
        self.assertEqual(ask(*flags(dovecot))["peak"], 0)
        answer = ask("--from", exporter.address, *flags(dovecot))
        self.assertEqual(answer["peak"], LIMIT)
        self.assertIn(f"{LIMIT} clients at most in the exporter's last minute", answer["seen"])

    def test_what_the_exporter_has_not_seen(self: Any) -> None:
        """Is not said to be of its last minute."""
        dovecot = self.start()
        exporter = self.enterContext(Exporter(dovecot))
        wait_until(lambda: exporter.value("dovecot_service_processes_peak", service=SERVICE, window="1m") == 0, PATIENCE, "a page")
        page = says(self, 200, exporter.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[2])
        with Clients(dovecot) as clients:
            clients.idle(LIMIT)
            wait_until(lambda: ask(*flags(dovecot))["in_use"] == LIMIT, PATIENCE, "the clients to be seen")
            answer = ask(f"--from={page}", *flags(dovecot))
        self.assertEqual(answer["peak"], LIMIT)
        self.assertIn("0 clients at most in the exporter's last minute", answer["seen"])

    def test_bad_input(self: Any) -> None:
        dovecot = self.start(**{SERVICE: PERFORMANCE_MODE})
        exporter = self.enterContext(Exporter(dovecot))
        nowhere = f"127.0.0.1:{free_port()}"
        empty = self.enterContext(Prometheus([])).address
        idle = Dovecot(self.generation, instance_name="advise-idle")
        self.addCleanup(idle.close)
        here = flags(dovecot)
        for words, arguments in {
            "no Dovecot runs": flags(idle),
            "Dovecot has no service nonesuch: give one of": ["nonesuch", *here],
            "needs no advice": ["auth-worker", *here],
            f"Prometheus at http://{nowhere} cannot be read": [f"--prometheus={nowhere}", *here],
            # Not the password in it.
            f"Prometheus at http://{nowhere}/x cannot be read": [f"--prometheus=http://me:s3cret@{nowhere}/x", *here],
            f"Prometheus at http://{exporter.address} cannot be read": [f"--prometheus={exporter.address}", *here],
            f"Prometheus at http://{empty} has no {CLIENTS} of {SERVICE}": [f"--prometheus={empty}", *here],
            "give --from the URL of a running exporter": [f"--from={nowhere}", *here],
            "is no Prometheus: give --prometheus the URL": [f"--prometheus={says(self, 200, '<html>')}", *here],
            "lets nobody in (http status: 401)": [f"--prometheus={says(self, 401, '')}", *here],
            "cannot be told: let the master be asked": [SERVICE, "--dovecot.master-socket=/nowhere", *here],
            "asked (give --dovecot.master-socket its socket), or": [SERVICE, "--dovecot.master-socket=", *here],
            "cannot be run": [*(flag for flag in here if "doveconf=" not in flag), "--dovecot.doveconf=/nowhere"],
        }.items():
            with self.subTest(words):
                found = run(*arguments)
                self.assertEqual((found.returncode, found.stdout), (1, ""))
                self.assertEqual(found.stderr.count("\n"), 1, found.stderr)
                self.assertIn(words, found.stderr)
        # It writes nothing, whatever it says.
        self.assertEqual(run("--period=1y", "--prometheus=x", *here).returncode, 2)


class Advise23(Advise, unittest.TestCase):
    generation = "2.3"

    def test_without_permission(self) -> None:
        dovecot = self.start(**{SERVICE: PERFORMANCE_MODE})
        program = dovecot.lab / "exporter"
        program.write_bytes(exporter_path().read_bytes())
        program.chmod(0o755)
        command = [*as_nobody(), str(program), "advise", SERVICE, *flags(dovecot)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual((found.returncode, found.stdout, found.stderr.count("\n")), (1, "", 1), found)
        self.assertIn("run this as root", found.stderr)


class Advise24(Advise, unittest.TestCase):
    generation = "2.4"

    def test_processes_with_sockets_of_their_own(self) -> None:
        """`reuse_port` of 2.4.4, by an output of doveconf that is made up: no such Dovecot is at hand."""
        settings = {**PERFORMANCE_MODE, "process_limit": 2, "process_min_avail": 2, "client_limit": LIMIT}
        dovecot = self.start(**{SERVICE: settings})
        own = rf"s/^service {SERVICE} {{/&\n  reuse_port = yes/; s/^# 2\.4\.[0-9]*/# 2.4.4/"
        (dovecot.lab / "made-up").mkdir()
        doveconf = self.wrapper(dovecot.lab / "made-up", dovecot.doveconf, f'{dovecot.doveconf} "$@" | sed "{own}"')
        here = [flag for flag in flags(dovecot) if "doveconf=" not in flag]
        with Clients(dovecot) as clients:
            clients.idle(LIMIT * 2)
            wait_until(lambda: ask(*flags(dovecot))["in_use"] == LIMIT * 2, PATIENCE, "the clients to be seen")
            answer = ask(f"--dovecot.doveconf={doveconf}", *here)
        self.assertEqual(answer["dovecot_version"], "2.4.4")
        (option,) = answer["options"]
        numbers = dict(re.findall(r"(process_limit|process_min_avail) = (\d+)", option["block"].partition("}")[0]))
        self.assertEqual(numbers["process_limit"], numbers["process_min_avail"])
        self.assertGreater(int(numbers["process_limit"]), 2)
        self.assertEqual(answer["recommended"], "shared")
        self.assertIn("reuse_port", answer["recommended_reason"])


class Remembering(Prometheus):
    """One that holds these OpenMetrics from its start."""

    def __init__(self, text: str) -> None:
        super().__init__([])
        with tempfile.NamedTemporaryFile("w", suffix=".om") as file:
            file.write(text)
            file.flush()
            command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", file.name, f"{self._directory}/data"]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


def week(days: int, now: int, instance: str = "mail:9166", growth: float = 2.0) -> list[tuple[int, int]]:
    """Clients every five minutes: a busy hour each day, growth, and one incident of an hour three days ago."""
    points = []
    for at in range(now - days * DAY, now, 300):
        ago = (now - at) // DAY
        hour = (now - at) % DAY // HOUR
        clients = 60 if hour == 10 else 20
        clients += int(growth * (days - ago))
        if ago == 3 and hour == 5:
            clients = 180
        points.append((at, clients))
    return points


def openmetrics(
    points: list[tuple[int, int]],
    warned: int | None = None,
    instances: Sequence[str] = ("mail:9166",),
    jobs: Sequence[str] = ("dovecot",),
) -> str:
    lines = []
    labels = [f'{{service="{SERVICE}",instance="{instance}",job="{job}"}}' for instance in instances for job in jobs]
    for metric, value in ((CLIENTS, lambda _, clients: clients), (WARNINGS, lambda at, _: int(at == warned))):
        lines.append(f"# TYPE {metric} gauge")
        for of in labels:
            lines += [f"{metric}{of} {value(at, clients)} {at}" for at, clients in points]
    return "\n".join([*lines, "# EOF", ""])


class History(unittest.TestCase):
    def setUp(self) -> None:
        services = {SERVICE: {"process_limit": 200}}
        self.dovecot = self.enterContext(Dovecot("2.3", instance_name="advise-history", services=services))
        self.now = int(time.time())

    def ask(self, text: str, *arguments: str) -> dict[str, Any]:
        prometheus = self.enterContext(Remembering(text))
        return ask(f"--prometheus={prometheus.address}", *arguments, *flags(self.dovecot))

    def test_a_week(self) -> None:
        points = week(7, self.now)
        answer = self.ask(openmetrics(points))
        self.assertEqual(answer["peak"], max(clients for _, clients in points))
        self.assertEqual((answer["peak_cut_off"], answer["confidence"]), (False, "high"))
        # Two a day; the incident is one day's, and changes nothing.
        self.assertAlmostEqual(answer["growth_per_week"], 14, delta=1)
        option = answer["options"][0]
        self.assertGreaterEqual(option["clients"], 2 * (180 + 12 * 13))
        self.assertLessEqual(option["clients"], 1.1 * 2 * (180 + 12 * 15))

    def test_of_the_same_week_before(self) -> None:
        points = week(15, self.now, growth=1.0)
        answer = self.ask(openmetrics(points), "--period=2d")
        recent = [clients for at, clients in points if at >= self.now - 2 * DAY]
        self.assertEqual(answer["peak"], max(recent))
        self.assertAlmostEqual(answer["growth_per_week"], 7, delta=0.5)
        self.assertEqual(answer["confidence"], "medium")

    def test_less_than_a_day(self) -> None:
        points = [(at, 50) for at in range(self.now - 5 * HOUR + 60, self.now, 300)]
        answer = self.ask(openmetrics(points))
        self.assertEqual((answer["peak"], answer["confidence"]), (50, "low"))
        self.assertNotIn("growth_per_week", answer)
        self.assertIn("5 hours", answer["confidence_reason"])

    def test_warnings_of_before_count_no_more(self) -> None:
        """Dovecot was started just now; a warning of two days ago was of an earlier configuration."""
        points = week(7, self.now, growth=0)
        answer = self.ask(openmetrics(points, warned=points[-600][0]))
        self.assertFalse(answer["peak_cut_off"], answer["seen"])
        self.assertTrue(any("before Dovecot last read" in seen for seen in answer["seen"]), answer["seen"])

    def test_one_host_scraped_by_two_jobs(self) -> None:
        text = openmetrics(week(2, self.now, growth=0), jobs=["dovecot", "mail"])
        self.assertEqual(self.ask(text)["peak"], 60)

    def test_several_hosts(self) -> None:
        text = openmetrics(week(2, self.now), instances=["a:9166", "b:9166"])
        prometheus = self.enterContext(Remembering(text))
        here = [f"--prometheus={prometheus.address}", *flags(self.dovecot)]
        found = run(*here)
        self.assertEqual((found.returncode, found.stdout, found.stderr.count("\n")), (1, "", 1))
        self.assertIn("give --instance one of a:9166, b:9166", found.stderr)
        self.assertEqual(ask("--instance=b:9166", *here)["confidence"], "medium")


if __name__ == "__main__":
    unittest.main()

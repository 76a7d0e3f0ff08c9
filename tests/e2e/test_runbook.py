"""The runbook does what it says: each of its commands is run, each block of settings cures what it is said to cure."""

from __future__ import annotations

import contextlib
import fnmatch
import imaplib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import textwrap
import unittest
from collections.abc import Callable
from pathlib import Path

from imap_clients import HOST, Clients, Outcome
from lab import PASSWORD, PERFORMANCE_MODE, REPOSITORY, Dovecot, Exporter, Prometheus, http_get, session, wait_until
from loggers import Journald, LoggingDovecot, Room

RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text()
RULES = REPOSITORY / "alerts/dovecot.rules.yml"
FENCES = [
    (language, textwrap.dedent(text))
    for _, language, text in re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", RUNBOOK, re.M | re.S)
]
COMMANDS = [line for language, text in FENCES if language == "sh" for line in text.splitlines()]
QUERIES = [line for language, text in FENCES if language == "promql" for line in text.splitlines()]
SETTINGS = [text for language, text in FENCES if language == "conf"]
UNITS = [text for language, text in FENCES if language == "ini"]

LOGIN = "imap-login"
PATIENCE = 60

# There is no systemd here to ask. What it would do, the lab does: it stops Dovecot and starts it.
NOT_RUN = ("systemctl restart dovecot", "systemctl start dovecot")


def the_command(pattern: str) -> str:
    (command,) = fnmatch.filter(COMMANDS, pattern.replace("[", "[[]"))
    return command


def settings_for(generation: str) -> list[str]:
    """The blocks whose first line names this generation of Dovecot."""
    return [block for block in SETTINGS if generation in block.splitlines()[0]]


def services_of(block: str) -> list[str]:
    return re.findall(r"^service (\S+) \{$", block, re.M)


class Stage:
    """A Dovecot with an exporter, and the runbook's commands as they are run here."""

    def __init__(self, dovecot: Dovecot, exporter: Exporter, clients: Clients) -> None:
        self.dovecot, self.exporter, self.clients = dovecot, exporter, clients
        self._tools = dovecot.lab / "tools"
        self._tools.mkdir()
        for tool in (dovecot.doveadm, dovecot.doveconf):
            wrapper = self._tools / tool.name
            wrapper.write_text(f'#!/bin/sh\nexec {tool} -c {dovecot.config} "$@"\n')
            wrapper.chmod(0o755)

    def run(self, command: str, *enter: str) -> subprocess.CompletedProcess[str]:
        ports = self.dovecot.ports
        for text, replacement in {
            ":143 or sport = :993": f":{ports['imap']} or sport = :{ports['imaps']}",
            "localhost:9166": self.exporter.address,
            "'sport = :9166'": f"'sport = :{self.exporter.address.rpartition(':')[2]}'",
            "/run/dovecot/": f"{self.dovecot.base_dir}/",
            "/var/log/mail.log": str(self.dovecot.log_path),
            "alice@example.org": "u1",
        }.items():
            command = command.replace(text, replacement)
        return subprocess.run(
            [*enter, "bash", "-o", "pipefail", "-c", command],
            env=os.environ | {"PATH": f"{self._tools}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def value(self, name: str, service: str = LOGIN, **labels: str) -> float | None:
        return self.exporter.value(f"dovecot_service_{name}", service=service, **labels)

    def places_taken(self, service: str) -> int:
        """By what each process says; of an old anvil the master knows the new client_limit only."""
        header, *rows = self.dovecot.admin("-f", "tab", "process", "status", service).splitlines()
        limit = int(self.dovecot.service_status(service)["client_limit"])
        return sum(limit - int(row.split("\t")[header.split("\t").index("available_count")]) for row in rows)


# --- What is to be seen in an overload -----------------------------------------


def status(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


def shows_a_full_service(stage: Stage, output: str) -> bool:
    shown = status(output)
    return (
        shown["process_count"] == shown["process_limit"] == str(HOLDERS)
        and (shown["process_avail"], shown["client_limit"], shown["listen_pending"]) == ("0", "1", "y")
        and int(shown["last_drop_warning"]) > 0
        # As on the exporter's page, unless it was made when the master had just begun to listen again.
        and stage.value("processes_counted") == int(shown["process_count"])
        and stage.value("process_limit") == int(shown["process_limit"])
        and stage.value("listen_paused") == 1
    )


def shows_the_queue(stage: Stage, output: str) -> bool:
    rows = [row.split() for row in output.splitlines()[1:]]
    queues = {row[3].rpartition(":")[2]: (int(row[1]), int(row[2])) for row in rows}
    port = str(stage.dovecot.ports["imap"])
    limit = stage.exporter.value("dovecot_listener_queue_limit", service=LOGIN, port=port)
    return len(queues) == 2 and queues[port][0] > 0 and queues[port][1] == limit


def shows_who_is_connected(stage: Stage, output: str) -> bool:
    number, address = output.split()
    return int(number) > HOLDERS and address == HOST


def shows_processes(stage: Stage, output: str) -> bool:
    return set(stage.dovecot.processes(LOGIN)) <= {int(line.split()[0]) for line in output.splitlines()[1:]}


def shows_open_files(stage: Stage, output: str) -> bool:
    return float(output.split()[3]) == stage.exporter.value("dovecot_master_open_files_limit")


def shows_series(*names: str) -> Callable[[Stage, str], bool]:
    """Exactly the series of these names, each as the exporter has it."""

    def shown(stage: Stage, output: str) -> bool:
        lines = output.splitlines()
        page = set(stage.exporter.get("/metrics", Accept="text/plain")[2].splitlines())
        return {re.split(r"[{ ]", line)[0] for line in lines} == set(names) and not set(lines) - page

    return shown


HOLDERS = 5
OVERLOAD: dict[str, Callable[[Stage, str], bool]] = {
    "doveadm service status imap-login": shows_a_full_service,
    "ss -ltn '( sport = :143 *": shows_the_queue,
    "grep -a 'master: Warning: service*": lambda stage, output: output.splitlines() == stage.dovecot.warnings()[-10:],
    "ss -Htn *": shows_who_is_connected,
    # The user with two sessions first.
    "doveadm who *": lambda stage, output: (lines := output.splitlines())[0].split()[:2] == ["u1", "2"]
    and {line.split()[0] for line in lines} == {"u1", "u2", "u3", "u4", "username"},
    "ps -C imap-login *": shows_processes,
    "pgrep -c -P *": lambda stage, output: int(output) == len(stage.dovecot.processes(LOGIN)) == HOLDERS,
    "doveconf -h service/imap-login/process_limit default_process_limit": lambda stage, output: output == "5\n100\n",
    "doveconf -h service/imap-login/process_limit": lambda stage, output: output == "5\n",
    "curl * | grep 'service=\"imap-login\"'": lambda stage, output: {
        f'dovecot_service_{name}{{service="imap-login"}} 5'
        for name in ("processes", "process_limit", "connection_capacity", "connections")
    }
    <= set(output.splitlines()),
    "curl * || echo 'all sources are up'": lambda stage, output: output == "all sources are up\n",
    "doveconf -n 2>&1 *": lambda stage, output: output == "nothing is too small\n",
    "grep 'open files' *": shows_open_files,
    "curl * | grep -E '^dovecot_(cgroup*": shows_series(
        "dovecot_cgroup_tasks",
        "dovecot_cgroup_tasks_limit",
        "dovecot_master_open_files_limit",
        "dovecot_service_client_limit_required",
    ),
    "sysctl net.core.somaxconn": lambda stage, output: output.split(" = ")[1]
    == Path("/proc/sys/net/core/somaxconn").read_text(),
    "doveadm service status imap-login | grep -E *": lambda stage, output: status(output).keys()
    == {"process_limit", "client_limit", "listen_pending", "last_drop_warning"},
    "curl * | grep -E 'dovecot_service_(connection_capacity|drop*": shows_series(
        "dovecot_service_connection_capacity",
        "dovecot_service_drop_warnings_total",
        "dovecot_service_listen_paused",
    ),
    "grep -ac 'Connection queue full' *": lambda stage, output: stage.value("queue_full_kills_total")
    == int(output)
    > 0,
    "doveadm process status imap-login": lambda stage, output: [
        line.split()[2] for line in output.splitlines()[1:]
    ]
    == ["0"] * HOLDERS,
    "curl * | grep -E 'dovecot_service_connection(s|*": lambda stage, output: output.splitlines()
    == [f'dovecot_service_{name}{{service="imap-login"}} 5' for name in ("connection_capacity", "connections")],
    "doveadm service status imap-login | grep process_limit": lambda stage, output: output == "process_limit: 5\n",
    "pgrep -ax dovecot *": lambda stage, output: str(stage.dovecot.master_pid)
    in [line.split()[0] for line in output.splitlines()],
    "doveconf -n > /dev/null && echo *": lambda stage, output: output == "the configuration is in order\n",
    "curl * | grep '^dovecot_exporter_source_up'": lambda stage, output: {"log", "limits", "master", "procfs"}
    == set(re.findall(r'source="(\w+)"\} 1$', output, re.M))
    and len(output.splitlines()) == 4,
    "curl * | grep -E '^dovecot_exporter_log_(position*": shows_series(
        "dovecot_exporter_log_position_bytes",
        "dovecot_exporter_log_size_bytes",
        "dovecot_exporter_log_read_errors_total",
    ),
    "ls -l *": lambda stage, output: str(stage.dovecot.log_path) in output,
    "curl * http://localhost:9166/-/healthy": lambda stage, output: output == http_get(stage.exporter.address, "/-/healthy")[2],
    "ss -ltn 'sport = :9166'": lambda stage, output: stage.exporter.address in output,
}

# Users who are not let in to their mailboxes.
HANDOVER: dict[str, Callable[[Stage, str], bool]] = {
    "grep -a 'destination service *": lambda stage, output: stage.value("handover_failures_total", "imap")
    == len(output.splitlines())
    > 0,
    "doveadm service status imap": lambda stage, output: status(output)["process_count"]
    == status(output)["process_limit"]
    == "3",
    "doveadm log errors": lambda stage, output: "destination service { process_limit } reached?" in output,
}

JOURNAL: dict[str, Callable[[str], bool]] = {
    "journalctl -t dovecot _UID=0 *": lambda output: len(re.findall("being dropped$", output, re.M))
    == len(output.splitlines())
    > 0,
    "journalctl -o cat *": lambda output: any(
        re.fullmatch("master: Warning: service.* being dropped", line) for line in output.splitlines()
    ),
    "journalctl -t dovecot -n 20 *": lambda output: "starting up" in output and "being dropped" in output,
}

# Each has a test of its own.
RELOAD = "doveconf -n > /dev/null && doveadm reload"
KICK = "doveadm kick *"
FAILED_RELOAD = "grep -aE 'master: (Error*"
LET_IN = "setfacl *"
LONGER_QUEUE = "sysctl -w *"


class Text(unittest.TestCase):
    def test_each_command_is_run(self) -> None:
        run = [*OVERLOAD, *HANDOVER, *JOURNAL, RELOAD, KICK, FAILED_RELOAD, LET_IN, LONGER_QUEUE, *NOT_RUN]
        self.assertEqual(sorted(map(the_command, run)), sorted(COMMANDS))

    def test_each_block_is_of_a_kind_that_is_tried(self) -> None:
        self.assertEqual({language for language, _ in FENCES}, {"sh", "conf", "ini", "promql"})
        self.assertEqual(RUNBOOK.count("```"), 2 * len(FENCES))
        self.assertEqual(re.findall(r"^ {4,}\S.*", RUNBOOK, re.M), [])  # nor is a command shown in another form
        for block in SETTINGS:
            self.assertRegex(block, r"\A# Dovecot (2\.3|2\.4|2\.3 and 2\.4)\n")

    def test_each_alert_has_its_section(self) -> None:
        rules = RULES.read_text()
        alerts = set(re.findall(r"^ *- alert: (\w+)$", rules, re.M))
        self.assertGreater(len(alerts), 0)
        sections = re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)
        self.assertEqual([name for name, _ in sections], list(dict.fromkeys(name for name, _ in sections)))
        self.assertEqual({name for name, _ in sections}, alerts)
        for name, text in sections:
            for word in ("Means:", "Not:", "[Cc]heck[,:]", "[Cc]ure[,:]", "[Vv]erify:"):
                self.assertRegex(text, word, name)
        # Nowhere is an alert named that there is not.
        self.assertEqual(set(re.findall(r"\bDovecot[A-Z]\w+", RUNBOOK)), alerts)

    def test_links_lead_somewhere(self) -> None:
        headings = re.findall(r"^#+ (.*)", RUNBOOK, re.M)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        self.assertLessEqual(set(re.findall(r"\(#([^)]*)\)", RUNBOOK)), anchors)
        self.assertLessEqual(set(re.findall(r"/runbook\.md#(\S+)", RULES.read_text())), anchors)
        for path in re.findall(r"\((\.\./[^)#]*)", RUNBOOK):
            self.assertTrue((REPOSITORY / "docs" / path).exists(), path)

    def test_metrics_exist(self) -> None:
        catalogue = set(re.findall(r"^\| `(\w+)`", (REPOSITORY / "docs/METRICS.md").read_text(), re.M))
        prose = re.sub(r"```.*?```", "", RUNBOOK, flags=re.S)
        self.assertLessEqual(set(re.findall(r"`(dovecot_\w+)`", prose)), catalogue)

    def test_promtool_reads_the_queries(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rules = Path(folder, "rules.yml")
            for number, query in enumerate(QUERIES):
                # JSON is YAML.
                rules.write_text(json.dumps({"groups": [{"name": "runbook", "rules": [{"record": "x", "expr": query}]}]}))
                done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, f"{number}: {query}: {done.stdout}{done.stderr}")

    def test_systemd_takes_the_settings_of_the_unit(self) -> None:
        (block,) = UNITS
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy("/lib/systemd/system/dovecot.service", folder)
            drop_in = Path(folder, "dovecot.service.d/override.conf")
            drop_in.parent.mkdir()

            def complaints() -> str:
                verify = ["systemd-analyze", "verify", f"{folder}/dovecot.service"]
                path = {"SYSTEMD_UNIT_PATH": f"{folder}:"}
                done = subprocess.run(verify, env=os.environ | path, capture_output=True, text=True)
                return "\n".join(line for line in done.stderr.splitlines() if str(drop_in) in line)

            drop_in.write_text(block)
            self.assertEqual(complaints(), "")
            # It is read, or else this would tell nothing.
            drop_in.write_text(block.replace("TasksMax", "TaskMax"))
            self.assertIn("TaskMax", complaints())

    def test_a_longer_queue(self) -> None:
        """In a network name space of its own, which has its own somaxconn."""
        command = the_command(LONGER_QUEUE)
        setting, _, value = command.removeprefix("sysctl -w ").partition("=")
        inside = f"{command} && cat /proc/sys/{setting.replace('.', '/')}"
        done = subprocess.run(["unshare", "--net", "sh", "-c", inside], check=True, capture_output=True, text=True)
        self.assertEqual(done.stdout.splitlines()[-1], value)


class OfDovecot:
    generation: str

    def stage(self: unittest.TestCase, make: Callable[..., Exporter] = Exporter, **options: object) -> Stage:
        name = f"runbook-{os.getpid()}"
        dovecot = self.enterContext(Dovecot(self.generation, instance_name=name, **options))
        return Stage(dovecot, self.enterContext(make(dovecot)), self.enterContext(Clients(dovecot)))

    def shown(self, stage: Stage, pattern: str, check: Callable[[Stage, str], bool], knockers: int = 0) -> None:
        """Runs the command until it shows what it should, with clients that knock meanwhile."""
        seen: list[object] = []

        def holds() -> bool:
            done = stage.run(the_command(pattern))
            seen[:] = [done]
            held = done.returncode == 0 and check(stage, done.stdout)
            seen.append(held)
            return held

        try:
            if knockers:
                wait_until(lambda: stage.clients.knock(knockers, 15, holds) is not None and seen[1], PATIENCE, pattern)
            else:
                wait_until(holds, PATIENCE, pattern)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {seen}") from None

    def test_an_overload_by_hand(self: unittest.TestCase) -> None:
        stage = self.stage(services={LOGIN: {"process_limit": HOLDERS}})
        self.into_a_control_group(stage.dovecot)
        # Clients that have not logged in are turned out to make room ...
        stage.clients.pre_auth(HOLDERS)
        kicked = lambda: "Connection queue full" in stage.dovecot.log_text()
        stage.clients.knock(HOLDERS, PATIENCE, until=kicked)
        self.assertTrue(kicked())
        stage.clients.close()
        wait_until(lambda: not stage.dovecot.processes(LOGIN), PATIENCE, "the processes to end")
        # ... those that idle over TLS are not.
        stage.clients._users = iter(("u1", "u1", "u2", "u3", "u4"))
        stage.clients.idle(HOLDERS)
        for pattern, check in OVERLOAD.items():
            with self.subTest(pattern):
                self.shown(stage, pattern, check, knockers=6)

    def into_a_control_group(self: unittest.TestCase, dovecot: Dovecot) -> None:
        """As a unit of systemd is."""
        tree = Path("/sys/fs/cgroup/pids") if Path("/sys/fs/cgroup/pids").exists() else Path("/sys/fs/cgroup")
        group = tree / f"runbook-{os.getpid()}-{self.generation}"
        group.mkdir()
        self.addCleanup(group.rmdir)
        self.addCleanup(dovecot.close)
        for pid in session(dovecot.master_pid):
            (group / "cgroup.procs").write_text(str(pid))

    def test_logins_lost(self: unittest.TestCase) -> None:
        stage = self.stage(services={"imap": {"process_limit": 3}})
        stage.clients.logged_in(3)
        with self.assertRaises(imaplib.IMAP4.error):
            stage.clients.logged_in(1)
        for pattern, check in HANDOVER.items():
            with self.subTest(pattern):
                self.shown(stage, pattern, check)
        (block,) = [block for block in settings_for(self.generation) if "imap" in services_of(block)]
        self.apply(stage, block)
        stage.clients.logged_in(8)
        self.assertEqual(stage.value("handover_failures_total", "imap"), 1)
        self.assertEqual(stage.dovecot.service_status("imap")["process_count"], 8)

    def apply(self: unittest.TestCase, stage: Stage, block: str, **options: object) -> None:
        """As the runbook says, and waits until those from before the reload have been sent away."""
        old = list(stage.clients.held)
        stage.dovecot.write_config(**({"services": {}} | options), settings=block)
        done = stage.run(the_command(RELOAD))
        self.assertEqual(done.returncode, 0, done.stderr)
        for client in old:
            self.assertTrue(client.closed_by_server(PATIENCE))
        stage.clients.close(old)

    def restart(self, stage: Stage) -> None:
        stage.dovecot.stop()
        stage.dovecot.start()

    def test_doveconf_takes_the_settings(self: unittest.TestCase) -> None:
        for block in SETTINGS:
            dovecot = Dovecot(self.generation, settings=block)
            self.addCleanup(dovecot.close)
            check = [dovecot.doveconf, "-c", dovecot.config, "-n"]
            done = subprocess.run(check, capture_output=True, text=True)
            # Those of the other generation are not: the comment above them is needed.
            self.assertEqual(done.returncode == 0, block in settings_for(self.generation), block + done.stderr)

    def test_the_two_remedies(self: unittest.TestCase) -> None:
        remedies = [block for block in settings_for(self.generation) if LOGIN in services_of(block)]
        self.assertEqual(len(remedies), 2)
        for block in remedies:
            with self.subTest(block), contextlib.ExitStack() as stack:
                dovecot = stack.enter_context(Dovecot(self.generation, services={LOGIN: {"process_limit": HOLDERS}}))
                exporter = stack.enter_context(Exporter(dovecot))
                stage = Stage(dovecot, exporter, stack.enter_context(Clients(dovecot)))
                stage.clients.idle(HOLDERS)
                stage.clients.knock(6, PATIENCE, until=lambda: dovecot.warnings(LOGIN))
                before = dovecot.warnings(LOGIN)
                self.assertGreater(len(before), 0)
                # That process_limit is kept where the block has no other: it is by sharing that there is room then.
                self.apply(stage, block, services=dovecot.options.services)

                stage.clients.idle(2 * HOLDERS)
                self.assertEqual(stage.clients.knock(6, PATIENCE), {Outcome.GREETED: 6})
                self.assertEqual(dovecot.warnings(LOGIN), before)
                now = dovecot.service_status(LOGIN)
                self.assertEqual((now["listen_pending"], now["last_drop_warning"]), ("n", 0))
                capacity = now["process_limit"] * now["client_limit"]
                wait_until(lambda: stage.value("connection_capacity") == capacity, PATIENCE, "the capacity on the page")
                counted = lambda: stage.value("drop_warnings_total", limit="process_limit") == len(before)
                wait_until(counted, PATIENCE, "the exporter to count the warnings")
                # The queue is as long as it was, until Dovecot is restarted.
                self.assertEqual(self.queue_limit(stage), HOLDERS)
                self.restart(stage)
                longest = int(Path("/proc/sys/net/core/somaxconn").read_text())
                self.assertEqual(self.queue_limit(stage), min(capacity, longest))

    def queue_limit(self, stage: Stage) -> int:
        output = stage.run(the_command("ss -ltn '( sport = :143 *")).stdout
        (limit,) = {int(row.split()[2]) for row in output.splitlines()[1:]}
        return limit

    def test_limits_that_bite_next(self: unittest.TestCase) -> None:
        small, many = 8, 20
        tried = set()
        for block in settings_for(self.generation):
            for service in {"auth", "anvil", "stats"} & set(services_of(block)):
                tried.add(service)
                with self.subTest(block, service=service), contextlib.ExitStack() as stack:
                    dovecot = stack.enter_context(Dovecot(self.generation, services={service: {"client_limit": small}}))
                    exporter = stack.enter_context(Exporter(dovecot))
                    stage = Stage(dovecot, exporter, stack.enter_context(Clients(dovecot)))
                    stage.clients.knock(many, PATIENCE, until=lambda: dovecot.warnings(service))
                    self.assertGreater(len(dovecot.warnings(service)), 0)
                    if service == "stats":
                        # Users do not notice.
                        stage.clients.idle(many)
                        stage.clients.close()
                    old = dovecot.processes(service)
                    self.apply(stage, block)
                    if service == "anvil":
                        # The old process is still there, and takes no more than it did.
                        self.assertEqual(dovecot.processes(service), old)
                        seen = len(dovecot.warnings(service))
                        full = lambda: len(dovecot.warnings(service)) > seen
                        stage.clients.knock(many, PATIENCE, until=full)
                        self.assertTrue(full())
                        self.restart(stage)
                    before = dovecot.warnings(service)
                    # The first hold auth and anvil, the others stats whichever way they come in.
                    stage.clients.pre_auth(many)
                    stage.clients.idle(many)
                    wait_until(lambda: stage.places_taken(service) > small, PATIENCE, f"{service} to take them")
                    self.assertEqual(dovecot.warnings(service), before)
        self.assertEqual(tried, {"auth", "anvil", "stats"})

    def test_connections_of_one_user(self: unittest.TestCase) -> None:
        (block,) = [block for block in settings_for(self.generation) if "mail_max_userip_connections" in block]
        stage = self.stage(settings="mail_max_userip_connections = 2")
        stage.clients._users = iter(["u1"] * 20)
        stage.clients.logged_in(2)
        with self.assertRaises(imaplib.IMAP4.error):
            stage.clients.logged_in(1)
        refused = "Maximum number of connections from user+IP exceeded"
        wait_until(lambda: refused in stage.dovecot.log_text(), PATIENCE, "the log to say why")
        stage.clients.close(stage.clients.held[2:])
        self.apply(stage, block)
        stage.clients.logged_in(12)

    def test_kick(self: unittest.TestCase) -> None:
        stage = self.stage(services={LOGIN: {"process_limit": HOLDERS}})
        stage.clients._users = iter(("u1", "u1", "u1", "u1", "u2"))
        clients = stage.clients.idle(HOLDERS)
        done = stage.run(the_command(KICK))
        self.assertEqual(done.returncode, 0, done.stderr)
        for client in clients[:4]:
            self.assertEqual(client.user, "u1")
            self.assertTrue(client.closed_by_server(PATIENCE))
        wait_until(lambda: len(stage.dovecot.processes(LOGIN)) == 1, PATIENCE, "room")

    def test_a_reload_that_fails(self: unittest.TestCase) -> None:
        stage = self.stage(services={LOGIN: {"process_limit": HOLDERS}})
        stage.dovecot.write_config(services={LOGIN: {"process_limit": "many"}})
        done = stage.run(the_command(RELOAD))
        self.assertNotEqual(done.returncode, 0)
        # It names the line, and has changed nothing.
        line = 1 + stage.dovecot.config.read_text().splitlines().index("  process_limit = many")
        self.assertRegex(done.stderr, rf"line {line}\b")
        self.assertEqual(stage.value("process_limit"), HOLDERS)
        # doveadm reads the configuration, too, and says the same whatever it is asked.
        refused = stage.run(the_command("doveadm service status imap"))
        self.assertEqual((refused.returncode != 0, refused.stdout), (True, ""))
        self.assertRegex(refused.stderr, rf"line {line}\b")
        # Whoever sends the signal himself finds it in the log.
        os.kill(stage.dovecot.master_pid, signal.SIGHUP)
        self.shown(stage, FAILED_RELOAD, lambda stage, output: "Error" in output)
        stage.dovecot.write_config(services={LOGIN: {"process_limit": 2 * HOLDERS}})
        self.assertEqual(stage.run(the_command(RELOAD)).returncode, 0)
        self.shown(stage, FAILED_RELOAD, lambda stage, output: "SIGHUP" in output.splitlines()[-1])
        # What only Dovecot looks at.
        wait_until(lambda: stage.value("process_limit") == 2 * HOLDERS, PATIENCE, "the new limit")
        setting = {"2.3": "ssl_cert = </nonexistent", "2.4": "ssl_server_cert_file = /nonexistent"}[self.generation]
        stage.dovecot.write_config(services={LOGIN: {"process_limit": HOLDERS}}, settings=setting)
        self.assertEqual(stage.run(the_command(RELOAD)).returncode, 0)
        self.shown(stage, FAILED_RELOAD, lambda stage, output: "Error" in output.splitlines()[-1])
        self.assertEqual(stage.value("process_limit"), 2 * HOLDERS)

    def test_what_doveconf_finds_too_small(self: unittest.TestCase) -> None:
        stage = self.stage(services={LOGIN: {"process_limit": 2000}})
        output = stage.run(the_command("doveconf -n 2>&1 *")).stdout
        said = re.findall(r"service (\w+) \{ client_limit=\d+ \} is lower than .*? load \((\d+)\)", output)
        self.assertEqual({name for name, _ in said}, {"auth", "anvil"})
        for name, required in said:
            self.assertEqual(stage.value("client_limit_required", name), int(required))
        # With what it asks for, and with the room the runbook makes, it is content.
        (room,) = [block for block in settings_for(self.generation) if "auth" in services_of(block)]
        asked = "".join(f"service {name} {{\n  client_limit = {required}\n}}\n" for name, required in said)
        for block in (asked, room):
            stage.dovecot.write_config(settings=block)
            self.assertEqual(stage.run(the_command("doveconf -n 2>&1 *")).stdout, "nothing is too small\n")

    def test_the_masters_socket(self: unittest.TestCase) -> None:
        stage = self.stage(make=Exporter.unprivileged)
        up = lambda: stage.exporter.value("dovecot_exporter_source_up", source="master")
        self.assertEqual(up(), 0)
        # The landing page says so.
        sources = stage.run(the_command("curl * || echo 'all sources are up'")).stdout
        self.assertRegex(sources, r"(?m)^ *master +down .*setfacl")
        self.assertIsNone(stage.value("listen_paused"))
        done = stage.run(the_command(LET_IN))
        self.assertEqual(done.returncode, 0, done.stderr)
        wait_until(lambda: up() == 1 and stage.value("listen_paused") == 0, PATIENCE, "the exporter to be let in")
        self.restart(stage)
        wait_until(lambda: up() == 0, PATIENCE, "the new socket to be closed")

    def test_without_a_dovecot(self: unittest.TestCase) -> None:
        stage = self.stage()
        stage.dovecot.stop()
        wait_until(lambda: stage.exporter.value("dovecot_master_up") == 0, PATIENCE, "the master to be missed")
        self.assertNotEqual(stage.run(the_command("doveadm service status imap")).returncode, 0)
        stage.dovecot.start()
        self.assertEqual(stage.run(the_command("doveadm service status imap")).returncode, 0)

    def test_journal(self: unittest.TestCase) -> None:
        room = self.enterContext(Room())
        self.enterContext(Journald(room))
        services = {LOGIN: {"process_limit": HOLDERS}}
        dovecot = self.enterContext(LoggingDovecot(self.generation, room, services=services))
        exporter = self.enterContext(Exporter(dovecot))
        stage = Stage(dovecot, exporter, self.enterContext(Clients(dovecot)))
        stage.clients.idle(HOLDERS)

        def all_show() -> bool:
            runs = [(stage.run(the_command(pattern), *room.enter), check) for pattern, check in JOURNAL.items()]
            return all(done.returncode == 0 and check(done.stdout) for done, check in runs)

        shown = lambda: stage.clients.knock(6, 15, until=all_show) is not None and all_show()
        wait_until(shown, PATIENCE, "the journal to show the warning")
        # One that is not root may write what it likes.
        forged = "master: Warning: service(a): process_limit (9) reached, client connections are being dropped"
        forge = ["setpriv", "--reuid=65534", "--clear-groups", "logger", "-t", "dovecot", forged]
        subprocess.run([*room.enter, *forge], check=True)
        everything = ["journalctl", "-t", "dovecot", "--no-pager"]
        wait_until(
            lambda: forged in subprocess.run([*room.enter, *everything], capture_output=True, text=True).stdout,
            PATIENCE,
            "the forged line",
        )
        self.assertNotIn(forged, stage.run(the_command("journalctl -t dovecot _UID=0 *"), *room.enter).stdout)

    def test_queries_in_an_overload(self: unittest.TestCase) -> None:
        stage = self.stage(services={LOGIN: {"process_limit": HOLDERS}})
        prometheus = self.enterContext(Prometheus([stage.exporter.address], rules=[RULES]))
        wait_until(lambda: prometheus.query("instance_service:dovecot_service_drop_warnings:increase5m"), PATIENCE, "rules")
        stage.clients.idle(HOLDERS)
        stage.clients.knock(6, PATIENCE, until=lambda: stage.dovecot.warnings(LOGIN))
        # There is no month or week to be had; the rest has something to show, of this very service.
        for query in QUERIES:
            with self.subTest(query):
                prometheus.query(query)
                if not re.search(r"\[30d|1w|^up", query):
                    show = lambda: [labels for labels, _ in prometheus.query(query) if labels.get("service", LOGIN) == LOGIN]
                    wait_until(show, PATIENCE, query)
        self.assertEqual([value for _, value in prometheus.query('up{job=~"(.*/)?dovecot(-capacity(-exporter)?)?"}')], [1])
        self.assertIn('up{job=~"(.*/)?dovecot(-capacity(-exporter)?)?"}', QUERIES)

    def test_memory_is_as_in_the_table(self: unittest.TestCase) -> None:
        column = {"2.3": 1, "2.4": 2}[self.generation]
        rows = re.findall(r"^\| (option 1|the same|option 2|either).*?\| ([\d.]+) \| ([\d.]+) \|$", RUNBOOK, re.M)
        told = {row[0]: float(row[column]) for row in rows}
        clients = 60
        measured = {}
        with Dovecot(self.generation) as dovecot, Clients(dovecot) as held:
            held.idle(clients)
            measured["option 1"] = memory(dovecot, LOGIN, "Rss") / clients
            measured["the same"] = memory(dovecot, LOGIN, "Pss") / clients
            measured["either"] = memory(dovecot, "imap", "Pss") / clients
        with Dovecot(self.generation, services={LOGIN: PERFORMANCE_MODE}) as dovecot, Clients(dovecot) as held:
            held.idle(1)
            first = memory(dovecot, LOGIN, "Rss")
            held.idle(clients)
            measured["option 2"] = (memory(dovecot, LOGIN, "Rss") - first) / clients
        self.assertEqual(told.keys(), measured.keys())
        print(f"\n{self.generation}: MB {({name: round(value, 3) for name, value in measured.items()})}")
        for name, value in measured.items():
            # Another processor or library may have it a little different.
            self.assertAlmostEqual(value, told[name], delta=0.3 * told[name], msg=name)

    def test_what_stats_needs(self: unittest.TestCase) -> None:
        """Two connections for each TLS client, and a few of Dovecot's own."""
        stage = self.stage()
        stage.clients.idle(20)
        wait_until(lambda: 2 * 20 <= stage.places_taken("stats") < 2 * 20 + 10, PATIENCE, "two for each")


def memory(dovecot: Dovecot, service: str, kind: str) -> float:
    """Megabytes of all processes of a service, by the kernel's own sum."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in dovecot.processes(service)]
    return sum(int(re.search(rf"^{kind}: +(\d+) kB$", text, re.M)[1]) for text in texts) / 1024


class Runbook23(OfDovecot, unittest.TestCase):
    generation = "2.3"


class Runbook24(OfDovecot, unittest.TestCase):
    generation = "2.4"


if __name__ == "__main__":
    unittest.main()

"""The story of an overload, played by a real Dovecot, a real Prometheus and real IMAP clients.

    python3 demo/demo.py          plays it and leaves nothing behind
    KEEP=1 python3 demo/demo.py   keeps everything up at the end, until Ctrl-C

Ends with 0 only if every act showed what it should. Run it as root: Dovecot's
master does. `make demo` installs and builds what it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/e2e"))
from imap_clients import Client, Clients, Outcome
from lab import PERFORMANCE_MODE, Dovecot, Exporter, Prometheus, exporter_path, session, wait_until

SERVICE = "imap-login"
HOLDERS, KNOCKERS, SHARERS = 5, 20, 20
PATIENCE = 12  # seconds a client waits for its greeting; Dovecot hangs up after 10
SUMMARY = ("processes", "process_limit", "connection_capacity", "drop_warnings_total")
WARNINGS = f'dovecot_service_drop_warnings_total{{service="{SERVICE}",limit="process_limit"}}'
RISE = f"increase({WARNINGS}[1m])"
COUNTS = f'{{__name__=~"dovecot_service_(processes|process_limit)",service="{SERVICE}"}}'
HEALTH = "up == 1 and on() dovecot_master_up == 1 and on() min(dovecot_exporter_source_up) == 1"
STARTED = time.monotonic()


class Failed(Exception):
    """An act did not show what it should."""


@dataclasses.dataclass
class Stage:
    """Who plays, and what the acts have in common."""

    dovecot: Dovecot
    exporter: Exporter
    prometheus: Prometheus
    clients: Clients

    def show_page(self, *names: str) -> None:
        """Prints the lines of these metrics exactly as the exporter serves them."""
        page = self.exporter.get("/metrics", Accept="text/plain")[2].splitlines()
        pattern = r'dovecot_service_%s\{service="%s"(,limit="process_limit")?\} .*'
        verbatim(*[line for name in names for line in page if re.fullmatch(pattern % (name, SERVICE), line)])

    def ask_prometheus(self, query: str) -> float | None:
        answer = self.prometheus.query(query)
        return answer[0][1] if answer else None

    def ask_dovecot(self, name: str) -> int:
        """What the master says, or doveconf of the configuration on disk."""
        if name == "process_limit_configured":
            setting = f"service/{SERVICE}/process_limit"
            return int(run(self.dovecot.doveconf, "-c", self.dovecot.config, "-h", setting))
        status = self.dovecot.service_status(SERVICE)
        capacity = status["process_limit"] * status["client_limit"]
        return {**status, "processes": status["process_count"], "connection_capacity": capacity}[name]

    def agree(self, **values: int) -> None:
        """Waits until Dovecot itself, the exporter and Prometheus say that metrics have these values."""
        for name, value in values.items():
            metric = f"dovecot_service_{name}"
            answers = {
                "Dovecot": lambda: self.ask_dovecot(name),
                "the exporter": lambda: self.exporter.value(metric, service=SERVICE),
                "Prometheus": lambda: self.ask_prometheus(f'{metric}{{service="{SERVICE}"}}'),
            }
            expect(name, lambda: value, answers)
        listing = ", ".join(f"{name} {value}" for name, value in values.items())
        checked(f"{listing}: Dovecot, the exporter and Prometheus agree")

    def count_warnings(self) -> int:
        """Those in the log, as soon as the exporter and Prometheus have counted them."""
        name, labels = "dovecot_service_drop_warnings_total", {"service": SERVICE, "limit": "process_limit"}
        answers = {
            "the exporter": lambda: self.exporter.value(name, **labels),
            "Prometheus": lambda: self.ask_prometheus(WARNINGS),
        }
        expect("the number of warnings", lambda: len(self.dovecot.warnings()), answers)
        return len(self.dovecot.warnings())

    def no_warning_since(self, before: int) -> None:
        if (now := self.count_warnings()) != before:
            raise Failed(f"{now - before} new warnings: {self.dovecot.warnings()[before:]}")
        checked(f"no {'further ' if before else ''}warning: Dovecot's log, the exporter and Prometheus agree")

    def configure(self, **settings: str | int) -> None:
        """Writes a configuration with these settings of the service, and shows what changed."""
        before = self.dovecot.config.read_text().splitlines()
        self.dovecot.write_config(services={SERVICE: settings})
        after = self.dovecot.config.read_text().splitlines()
        verbatim(*list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:])

    def await_disconnection(self, old: list[Client]) -> None:
        """Of clients from before a reload."""
        say("A reload ends the old processes within 6 s, and the connections they hold.")
        if not all(client.closed_by_server(15) for client in old):
            raise Failed("a client from before the reload still holds its connection")
        self.clients.close(old)
        checked(f"the {len(old)} clients from before the reload have been disconnected")


def expect(what: str, wanted: Callable[[], object], answers: Mapping[str, Callable[[], object]]) -> None:
    """Waits until each gives the wanted answer."""
    for who, answer in answers.items():
        try:
            wait_until(lambda: answer() == wanted(), 10, what)
        except TimeoutError:
            raise Failed(f"{what} should be {wanted()}, but {who} says {answer()}") from None


def run(*command: str | Path) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def say(text: str, mark: str = "") -> None:
    print(textwrap.fill(text, 79, initial_indent=mark, subsequent_indent=" " * len(mark)), flush=True)


def checked(text: str) -> None:
    say(text, "  ok  ")


def verbatim(*lines: str) -> None:
    """What others wrote stays as it is, however long its lines."""
    print("", *lines, "", sep="\n", flush=True)


def headline(text: str) -> None:
    print(f"\n{f'== {text} ':=<71} {time.monotonic() - STARTED:4.0f} s\n", flush=True)


def act_0(stage: Stage) -> None:
    """the players"""
    imaps, version = stage.dovecot.ports["imaps"], stage.prometheus.api("status/buildinfo")["version"]
    say(f"Dovecot {run('/usr/sbin/dovecot', '--version')}, imaps://127.0.0.1:{imaps}")
    say(f"{run(exporter_path(), '--version')}, http://{stage.exporter.address}/")
    say(f"Prometheus {version}, http://{stage.prometheus.address}/, scrapes every second")
    expect("the health of exporter and sources", lambda: 1, {"Prometheus": lambda: stage.ask_prometheus(HEALTH)})
    checked("Prometheus scrapes; the exporter sees Dovecot's processes, limits and log")


def act_1(stage: Stage) -> None:
    """five clients fill Dovecot"""
    say(f"process_limit is 5, and a client that idles over TLS keeps an {SERVICE} process to itself.")
    stage.clients.idle(HOLDERS)
    stage.agree(processes=5, process_limit=5, connection_capacity=5)
    stage.no_warning_since(0)
    stage.show_page(*SUMMARY)
    say("Full. But nobody has been turned away yet, so Dovecot says nothing.")


def act_2(stage: Stage) -> None:
    """more clients knock"""
    say(f"{KNOCKERS} more clients wait up to {PATIENCE} s for a greeting. Dovecot's log meanwhile:")
    print()
    shown: list[str] = []

    def show_new_warnings() -> None:
        for line in stage.dovecot.warnings()[len(shown) :]:
            print(line, flush=True)
            shown.append(line)

    outcomes = stage.clients.knock(KNOCKERS, PATIENCE, until=show_new_warnings)
    warnings = stage.count_warnings()
    show_new_warnings()
    print()
    fates = "; ".join(f"{outcomes[outcome]} {outcome.value}" for outcome in Outcome)
    if outcomes[Outcome.GREETED]:
        raise Failed(f"clients were let in although Dovecot is full: {fates}")
    checked(f"all {KNOCKERS} clients failed ({fates})")
    if not 0 < warnings < KNOCKERS:
        raise Failed(f"{warnings} warnings for {KNOCKERS} failed clients")
    checked(f"warnings: {warnings}; Dovecot's log, the exporter and Prometheus agree")
    stage.show_page(*SUMMARY)
    say("What an alert asks Prometheus (it extrapolates, hence no whole number):")
    rise = wait_until(lambda: stage.ask_prometheus(RISE), 10, f"Prometheus to see {RISE} above 0")
    verbatim(f"{RISE} = {rise:.2f}")
    say(
        f"{KNOCKERS} clients failed, Dovecot warned {'once' if warnings == 1 else f'{warnings} times'}: "
        "a warning says that clients are being dropped, it is not one dropped client."
    )


def act_3(stage: Stage) -> None:
    """option 1, a higher process_limit"""
    say("In dovecot.conf:")
    stage.configure(process_limit=12)
    stage.agree(process_limit_configured=12, process_limit=5)
    stage.show_page("process_limit_configured", "process_limit")
    say("The file says 12, the running Dovecot keeps to 5 until: doveadm reload")
    old, before = list(stage.clients.held), stage.count_warnings()
    stage.dovecot.reload()
    stage.agree(process_limit_configured=12, process_limit=12)
    stage.show_page("process_limit_configured", "process_limit")
    stage.clients.idle(5)
    checked("five new clients got in")
    stage.await_disconnection(old)
    stage.clients.idle(HOLDERS)
    checked("they connected again, as mail programs do")
    stage.agree(processes=10, connection_capacity=12)
    stage.no_warning_since(before)
    stage.show_page(*SUMMARY)
    say("Ten clients, where there was room for five.")


def act_4(stage: Stage) -> None:
    """option 2, performance mode"""
    say("Clients share a process, and process_limit is 5 again. In dovecot.conf:")
    stage.configure(**PERFORMANCE_MODE, client_limit=100, process_limit=5)
    old, before = list(stage.clients.held), stage.count_warnings()
    say("doveadm reload")
    stage.dovecot.reload()
    sharers = stage.clients.idle(SHARERS)
    checked(f"{SHARERS} clients got in")
    stage.await_disconnection(old)
    stage.agree(processes=1, process_limit=5, connection_capacity=500)
    for client in sharers:
        client.connection.send(b"DONE\r\n")
        if b" OK " not in (answer := client.connection.readline()):
            raise Failed(f"a client that shares the process was answered {answer!r}")
    checked(f"Dovecot answers all {SHARERS} of them")
    stage.no_warning_since(before)
    stage.show_page(*SUMMARY)
    say(f"{SHARERS} clients in one process, and room for 500.")


def play(stack: contextlib.ExitStack, servers: list[Dovecot | Exporter | Prometheus]) -> bool:
    """All acts; whether they showed what they should."""
    number = 0
    try:
        headline(f"Act 0: {act_0.__doc__}")
        generation, services = run("/usr/sbin/dovecot", "--version")[:3], {SERVICE: {"process_limit": 5}}
        servers.append(stack.enter_context(Dovecot(generation, root=Path("/"), services=services)))
        servers.append(stack.enter_context(Exporter(servers[0])))
        servers.append(stack.enter_context(Prometheus([servers[1].address])))
        stage = Stage(*servers, stack.enter_context(Clients(servers[0], timeout=15)))
        act_0(stage)
        for number, act in enumerate((act_1, act_2, act_3, act_4), start=1):
            headline(f"Act {number}: {act.__doc__}")
            act(stage)
    except Exception as error:
        print(f"\nAct {number} failed: {error if isinstance(error, Failed) else repr(error)}")
        for server in servers[:2]:
            log = server.log_text().splitlines() if isinstance(server, Dovecot) else server.stderr
            print(f"\nThe end of the log of {type(server).__name__}:", *log[-8:], sep="\n", flush=True)
        return False
    headline("Every act showed what it should")
    return True


def keep_up(exporter: Exporter, prometheus: Prometheus) -> None:
    graphs = {}
    for number, query in enumerate((COUNTS, RISE)):
        graphs |= {f"g{number}.expr": query, f"g{number}.tab": 0, f"g{number}.range_input": "5m"}
    print(f"The exporter's page:  http://{exporter.address}/")
    print(f"Prometheus' graphs:   http://{prometheus.address}/graph?{urllib.parse.urlencode(graphs)}")
    print("Ctrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def on_signals(handler: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def main() -> int:
    if os.geteuid() != 0:
        print("demo.py: must be root, as Dovecot's master is", file=sys.stderr)
        return 2
    on_signals(signal.default_int_handler)  # all raise KeyboardInterrupt, so that all ends in order
    servers: list[Dovecot | Exporter | Prometheus] = []
    with contextlib.ExitStack() as stack:
        try:
            code = 0 if play(stack, servers) else 1
            leaders = [server.process.pid for server in servers]
            if os.environ.get("KEEP") == "1" and len(servers) == 3:
                keep_up(*servers[1:])
        except KeyboardInterrupt:
            print("\nInterrupted.")
            return 130
        finally:
            on_signals(signal.SIG_IGN)  # nobody interrupts the tidying up
    if left := [pid for leader in leaders for pid in session(leader)]:
        print(f"Left running: {left}")
        return 1
    print("Everything is stopped and removed.")
    return code


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measures what the exporter costs, each time beside a program that does the same work.

    bench.py            the full run, about four minutes
    bench.py --large    also with 5,000 + 5,000 and 20,000 + 5,000 processes
    bench.py --quick    small numbers, to see that everything can be measured
    bench.py web        only what the function of that name measures

It prints a table, in which a figure beyond its bound reads "no". It fails only if something could not be measured or
if an answer was wrong. Needs root, tests/e2e/install-packages.sh and `make build witness`; $EXPORTER is another program
to measure. What is measured, and what the figures mean: docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.client
import os
import random
import re
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests/e2e"))
from lab import Exporter, Server, exporter_path, free_port, wait_until  # noqa: E402
from web_files import TLS, Folder, hash_of  # noqa: E402

WITNESS = REPOSITORY / "target/witness"
PROCESS_EXPORTER = "/usr/bin/prometheus-process-exporter"
DROPPED = "reached, client connections are being dropped"
MTAIL_PROGRAM = f"counter drops\n/: Warning: service\\(.*{DROPPED}/ {{\n  drops++\n}}\n"
# What Prometheus asks for.
AS_PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}
MB = 1_000_000


class Size(NamedTuple):
    """How much of everything."""

    herds: tuple[tuple[int, int], ...]  # Dovecot's processes, others
    rounds: int
    turn: float  # CPU seconds of the exporter in one turn of scrapes
    log: int  # bytes
    slow_rounds: int  # of mtail
    flow: int  # seconds at LINES_PER_SECOND
    delays: int  # warnings that are waited for
    copies: int  # rotations
    idle: int  # seconds
    starts: int


FULL = Size(((1000, 1000), (1000, 5000)), 15, 0.2, 500 * MB, 3, 20, 500, 40, 20, 20)
LARGE = FULL._replace(herds=(*FULL.herds, (5000, 5000), (20000, 5000)))
QUICK = Size(((200, 200),), 3, 0.02, 50 * MB, 1, 3, 30, 3, 3, 5)
LINES_PER_SECOND = 10_000
# In an ordinary log of an overloaded Dovecot; it writes one a second.
WARNING_EVERY = 1000


# --- the table ------------------------------------------------------------------

COLUMNS = "| {:<36} | {:>10} | {:<18} | {:>10} | {:>9} | {:<8} | {:<3} |"
Figures = dict[str, list[float]]  # by program, one for each round


def row(what: str, ours: str, peer: str = "", its: str = "", ratio: str = "", bound: str = "",
        value: float = 0) -> None:
    """One line; `value` is what is held against `bound`, "<= 1.3"."""
    met = ""
    if bound:
        relation, limit = bound.split()[:2]
        met = "yes" if (value <= float(limit) if relation == "<=" else value >= float(limit)) else "no"
    print(COLUMNS.format(what, ours, peer, its, ratio, bound, met), flush=True)


def compare(what: str, figures: Figures, unit: str, peer: str, bound: str = "", less: bool = False) -> None:
    """The exporter beside a peer: medians, and the median of the rounds' ratios; `less` turns the ratio round."""
    ours, its = figures["exporter"], figures[peer]
    ratio = statistics.median(b / a if less else a / b for a, b in zip(ours, its))
    shown = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    ours_shown, its_shown = (f"{statistics.median(some):#.3g} {unit}" for some in (ours, its))
    row(what, ours_shown, peer, its_shown, shown + (" less" if less else ""), bound, ratio)


def memory(when: str, pid: int, peer: str = "", its: int = 0) -> None:
    """The most memory the exporter has had so far."""
    ours = peak_memory(pid)
    row(f"peak memory, {when}", f"{ours:.1f} MiB", peer, f"{peak_memory(its):.1f} MiB" if peer else "",
        bound="<= 10 MiB", value=ours)


# --- tools ----------------------------------------------------------------------


class Background(Server):
    """A peer that runs until it is told to stop."""

    def __init__(self, *command: str | Path) -> None:
        super().__init__()
        self.command = command

    def start(self) -> None:
        self._spawn(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=10)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


def cpu(pid: int) -> float:
    """CPU seconds of a process with all its threads, also ended ones, exactly: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def peak_memory(pid: int) -> float:
    """In MiB."""
    return int(number(Path(f"/proc/{pid}/status").read_text(), r"VmHWM:\s+(\d+) kB")) / 1024


def run(*command: str | Path) -> tuple[float, str]:
    """Runs a program to its end: its CPU seconds, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # In the C locale grep is fastest; into a pipe it counts, into /dev/null it would stop at the first match.
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {result.returncode}: {result.stderr.strip()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, result.stdout


def number(text: str, pattern: str) -> float:
    """The number that the pattern's group finds."""
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise RuntimeError(f"no {pattern} in: {text[:2000]}")
    return float(found[1])


def expect(what: str, found: float, right: float) -> None:
    """The cost of a wrong answer means nothing."""
    if found != right:
        raise RuntimeError(f"{what}: {found:.0f}, where {right:.0f} is right")


def scrape(address: str, tls: ssl.SSLContext | None = None, **headers: str) -> str:
    """The page of metrics, fetched as Prometheus does."""
    plain = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(http.client.HTTPSConnection(address, timeout=60, context=tls) if tls else plain) as connection:
        connection.request("GET", "/metrics", headers={**AS_PROMETHEUS, **headers})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{address} answers {response.status}: {body[:500]!r}")
        return (gzip.decompress(body) if response.headers.get("Content-Encoding") == "gzip" else body).decode()


def answers(address: str) -> bool:
    """Whether scrapes work already."""
    try:
        return bool(scrape(address))
    except OSError:
        return False


def processes(exporter: Exporter) -> float:
    """What the exporter says of imap-login."""
    return number(scrape(exporter.address), r'^dovecot_service_processes\{service="imap-login"\} (\d+)$')


def warnings(exporter: Exporter) -> float:
    """The drop warnings that the exporter has counted."""
    labels = r'\{service="imap-login",limit="process_limit"\}'
    return number(scrape(exporter.address), rf"^dovecot_service_drop_warnings_total{labels} (\d+)$")


# --- the benchmarks -------------------------------------------------------------


@contextlib.contextmanager
def herd(dovecot: int, others: int) -> Iterator[tuple[list[str], str]]:
    """Made-up processes in a PID name space: what makes a command run among them, and the master's pid there."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", WITNESS / "herd"]
    # It ends when its standard input does, however we end.
    with subprocess.Popen(
        [*command, str(dovecot), str(others)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        master = process.stdout.readline().removeprefix("master ").strip()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{WITNESS / 'herd'} could not start its processes")
        spaces = f"/proc/{process.pid}/ns"
        enter = ["nsenter", f"--mount={spaces}/mnt", f"--pid={spaces}/pid_for_children"]
        yield [*enter, "setpriv", "--pdeathsig", "TERM"], master
        process.stdin.close()


def child(server: Server) -> int:
    """The program that nsenter waits for."""
    assert server.process is not None
    return int(Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text())


def scrapes(size: Size, directory: Path) -> None:
    """What a scrape costs, beside three others that walk /proc."""
    quiet = directory / "quiet.log"
    quiet.touch()
    for dovecot, others in size.herds:
        with contextlib.ExitStack() as stack:
            enter, master = stack.enter_context(herd(dovecot, others))
            exporter = Exporter(None, f"--dovecot.log-file={quiet}")
            exporter.command[:0] = enter
            stack.enter_context(exporter)
            address = f"127.0.0.1:{free_port()}"
            flags = ["-procnames", "imap-login", "-web.listen-address", address]
            peer = stack.enter_context(Background(*enter, PROCESS_EXPORTER, *flags))
            wait_until(lambda: answers(address), 60, "process-exporter to answer")
            scrape_one(size, (dovecot, others), exporter, (peer, address), [*enter, str(WITNESS / "walk")], master)


def scrape_one(size: Size, there: tuple[int, int], exporter: Exporter, peer: tuple[Server, str], walk: list[str],
               master: str) -> None:
    """The programs by turns."""

    def turn(pid: int, address: str, times: int) -> float:
        before = cpu(pid)
        for _ in range(times):
            scrape(address)
        return (cpu(pid) - before) / times * 1000

    what = f"{there[0]:,} + {there[1]:,}"
    ours, its = child(exporter), child(peer[0])
    walks = {"C, the same files": ["cmdline", "--master", master], "C, only comm": ["comm", "--name", "imap-login"]}
    figures: Figures = {name: [] for name in ("exporter", *walks, "process-exporter")}
    expect("imap-login processes", processes(exporter), there[0])
    times = max(3, int(size.turn * 1000 / turn(ours, exporter.address, 10)))
    for _ in range(size.rounds):
        figures["exporter"].append(turn(ours, exporter.address, times))
        for name, arguments in walks.items():
            text = run(*walk, *arguments, "--repeat", str(times))[1]
            expect(f"imap-login processes ({name})", number(text, r"^imap-login (\d+)$"), there[0])
            figures[name].append(number(text, r"^cpu_seconds_per_scan (\S+)$") * 1000)
        figures["process-exporter"].append(turn(its, peer[1], 1 if there[0] > 5000 else 3))
    compare(f"CPU per scrape, {what}", figures, "ms", "C, the same files", "<= 0.5")
    compare(f"CPU per scrape, {what}", figures, "ms", "C, only comm")
    # Not bound where the others are many: process-exporter reads little of a process whose name it does not want.
    bound = "" if there[1] > there[0] else ">= 100"
    compare(f"CPU per scrape, {what}", figures, "ms", "process-exporter", bound, less=True)
    memory(f"scraped, {what}", ours, "process-exporter", its)


def web(size: Size, directory: Path) -> None:
    """What TLS of version 1.3 and a password add to a scrape; each one shakes hands."""
    dovecot, others = size.herds[0]
    quiet = directory / "quiet.log"
    quiet.touch()
    with contextlib.ExitStack() as stack:
        folder = Folder(stack.enter_context)
        folder.issue_all()
        folder.write("web.yml", f"{TLS}basic_auth_users: {{prometheus: {hash_of('secret', 10)}}}\n")
        enter, _ = stack.enter_context(herd(dovecot, others))
        tls = ssl.create_default_context(cafile=folder / "ca.pem")
        password = base64.b64encode(b"prometheus:secret").decode()
        doors = {"exporter": (f"--web.config.file={folder / 'web.yml'}",), "plain HTTP": ()}
        asked = {"exporter": {"tls": tls, "Authorization": f"Basic {password}"}, "plain HTTP": {}}
        exporters = {name: Exporter(None, f"--dovecot.log-file={quiet}", *flags) for name, flags in doors.items()}
        for exporter in exporters.values():
            exporter.command[:0] = enter
            stack.enter_context(exporter)

        def turn(name: str, times: int) -> float:
            before = cpu(child(exporters[name]))
            for _ in range(times):
                scrape(exporters[name].address, **asked[name])
            return (cpu(child(exporters[name])) - before) / times * 1000

        times = max(3, int(size.turn * 1000 / turn("plain HTTP", 10)))
        turn("exporter", 10)  # the first costs a bcrypt
        figures: Figures = {name: [] for name in doors}
        for _ in range(size.rounds):
            for name in doors:
                figures[name].append(turn(name, times))
        compare(f"TLS and password, {dovecot:,} + {others:,}", figures, "ms", "plain HTTP")
        memory("TLS and password", child(exporters["exporter"]), "plain HTTP", child(exporters["plain HTTP"]))


def position(pid: int, path: Path) -> int:
    """How far a process has read a file, -1 if it has not opened it. The kernel says so, at no cost to the process."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if link.readlink() == path:
                return int(number(Path(f"/proc/{pid}/fdinfo/{link.name}").read_text(), r"^pos:\s+(\d+)$"))
    return -1


def bytes_read(pid: int) -> int:
    """By all system calls of a process. The exporter reads at places of its own, which moves no position."""
    return int(number(Path(f"/proc/{pid}/io").read_text(), r"^rchar: (\d+)$"))


def following(path: Path) -> Exporter:
    """The exporter, for measurements of its log reader only."""
    return Exporter(None, f"--dovecot.log-file={path}", "--dovecot.doveconf=/bin/false")


def catch_up(size: Size, directory: Path) -> None:
    """A long log that is there all at once, from the page cache."""
    log, path, program = directory / "made.log", directory / "dovecot.log", directory / "drops.mtail"
    program.write_text(MTAIL_PROGRAM)
    made = run(sys.executable, REPOSITORY / "bench/make_log.py", log, str(size.log))[1]
    written, length = number(made, r"^warnings (\d+)$"), log.stat().st_size
    os.sync()
    peers: dict[str, tuple[Sequence[str | Path], str, str]] = {
        "grep -c -F": (("grep", "-c", "-F", DROPPED, log), r"^(\d+)$", ">= 1.5"),
        "C, follow --once": ((WITNESS / "follow", "--once", log), r"^matched (\d+)$", ""),
        "mtail": (("mtail", "--one_shot", "--progs", program, "--logs", log), r'"Value": (\d+)', ">= 80"),
    }
    figures: Figures = {name: [] for name in ("exporter", *peers)}
    peak = 0.0
    for turn in range(size.rounds):
        with following(path) as exporter:
            before = cpu(exporter.pid)
            path.hardlink_to(log)  # a file that appears is read from its start
            wait_until(lambda: bytes_read(exporter.pid) >= length, 60, "the exporter to read the log")
            # Its cost is included.
            wait_until(lambda: warnings(exporter) >= written, 5, f"{written} warnings to be counted")
            found = warnings(exporter)
            figures["exporter"].append(length / (cpu(exporter.pid) - before) / 1e9)
            peak = max(peak, peak_memory(exporter.pid))
        expect("warnings in the log", found, written)
        path.unlink()
        for name, (command, pattern, _) in peers.items():
            if name != "mtail" or turn < size.slow_rounds:
                seconds, text = run(*command)
                expect(f"warnings in the log ({name})", number(text, pattern), written)
                figures[name].append(length / seconds / 1e9)
    for name, (_, _, bound) in peers.items():
        compare(f"log read per CPU second, {length / MB:.0f} MB", figures, "GB", name, bound)
    row(f"peak memory, {length / MB:.0f} MB of log read", f"{peak:.1f} MiB", bound="<= 10 MiB", value=peak)
    log.unlink()


def mtail(directory: Path, log: Path) -> Background:
    """mtail, following `log`."""
    program = directory / "drops.mtail"
    program.write_text(MTAIL_PROGRAM)
    flags = ["--address", "127.0.0.1", "--port", str(free_port()), "--log_dir", directory]
    return Background("mtail", *flags, "--progs", program, "--logs", log)


def flow(size: Size, directory: Path) -> None:
    """A log that grows by a line at a time: logins among which some lines are warnings, and nothing but warnings."""
    log = directory / "flow.log"
    for every, bound, note in ((WARNING_EVERY, "<= 1 %", ""), (1, "", ", all warnings")):
        figures: Figures = {}
        for name, reader in {
            "exporter": following(log),
            "C, follow": Background(WITNESS / "follow", log),
            "tail -F": Background("tail", "-n", "0", "-F", log),
            "mtail": mtail(directory, log),
        }.items():
            log.write_bytes(b"")
            with reader:
                wait_until(lambda: position(reader.pid, log) >= 0, 20, f"{name} to open the log")
                start, before = bytes_read(reader.pid), cpu(reader.pid)
                written = float(run(WITNESS / "write_log", log, str(LINES_PER_SECOND), str(size.flow), "1", str(every))[1])
                wait_until(lambda: bytes_read(reader.pid) - start >= log.stat().st_size, 20, f"{name} to read the log")
                figures[name] = [(cpu(reader.pid) - before) / size.flow * 100]
                if isinstance(reader, Exporter):
                    # The position is that of the last read; its lines are counted a moment later.
                    wait_until(lambda: warnings(reader) >= written, 5, f"{written} warnings to be counted")
                    expect("warnings that were written", warnings(reader), written)
            expect("lines per second", round(written * every / size.flow / LINES_PER_SECOND, 1), 1)
        what = f"core, {LINES_PER_SECOND:,} lines/s{note}"
        ours = figures["exporter"][0]
        row(what, f"{ours:.2f} %", bound=bound, value=ours)
        for name in list(figures)[1:]:
            compare(what, figures, "%", name, less=True)


def delay(size: Size, directory: Path) -> None:
    """From the writing of a warning to a page that has it counted, while other lines pour in."""
    log = directory / "delay.log"
    log.touch()
    line = f"Nov 23 15:54:28 master: Warning: service(pop3-login): process_limit (5) {DROPPED}\n".encode()
    pattern = r'^dovecot_service_drop_warnings_total\{service="pop3-login",limit="process_limit"\} (\d+)$'
    busy = Background(WITNESS / "write_log", log, str(LINES_PER_SECOND), "0", "1", str(WARNING_EVERY))
    times = []
    with following(log) as exporter, busy, log.open("ab", buffering=0) as writer:
        for count in range(1, size.delays + 1):
            # At any moment of the reader's turns.
            time.sleep(random.uniform(0, 0.02))
            before = time.perf_counter()
            writer.write(line)
            while True:
                # By how long the answer takes, the figure is too high.
                page = scrape(exporter.address)
                if re.search(pattern, page, re.MULTILINE) and number(page, pattern) >= count:
                    break
            times.append((time.perf_counter() - before) * 1000)
    value = statistics.quantiles(times, n=100)[98]
    row(f"warning to page, p99 of {size.delays}", f"{value:.1f} ms", bound="<= 25 ms", value=value)


def copies(size: Size, directory: Path) -> None:
    """What copytruncate destroys before it is read, at 2,000 warnings a second."""
    log, config = directory / "log/copied.log", directory / "logrotate.conf"
    log.parent.mkdir(mode=0o700)
    log.touch(mode=0o600)
    config.write_text(f"{log} {{\n  rotate 100\n  copytruncate\n}}\n")
    config.chmod(0o600)
    # Both go before all others: a reader that a busy machine keeps waiting loses what came meanwhile.
    first = ("chrt", "--fifo", "1")
    exporter = following(log)
    exporter.command[:0] = first
    said = directory / "follow.txt"
    with exporter, said.open("w") as output:
        with subprocess.Popen([*first, WITNESS / "follow", log], stdout=output) as peer:
            wait_until(lambda: "ready\n" in said.read_text(), 20, "the C follower")
            writer = subprocess.Popen([WITNESS / "write_log", log, "2000", "0"], stdout=subprocess.PIPE, text=True)
            for _ in range(size.copies):
                wait_until(lambda: log.stat().st_size >= 100_000, 20, "the log to grow")
                run("/usr/sbin/logrotate", "-f", "-s", directory / "state", config)
            writer.terminate()
            written = int(writer.communicate()[0])
            wait_until(lambda: position_on_page(exporter) == log.stat().st_size, 20, "the exporter to read the log")
            peer.terminate()
        lost, its = written - warnings(exporter), written - number(said.read_text(), r"^matched (\d+)$")
    if lost < 0:
        raise RuntimeError(f"{-lost:.0f} warnings were counted twice")
    # Whoever loses none by luck would make every other look bad.
    row(f"lost by {size.copies} copytruncates, of {written:,}", f"{lost:.0f}", "C, follow", f"{its:.0f}",
        bound=f"<= {max(2 * its, size.copies / 5):.0f}", value=lost)


def position_on_page(exporter: Exporter) -> float:
    """Up to where the exporter says that it has read its log."""
    return number(scrape(exporter.address), r"^dovecot_exporter_log_position_bytes\{.*\} (\d+)$")


def idle(size: Size, directory: Path) -> None:
    """Nothing happens, and nobody asks."""
    log = directory / "idle.log"
    log.touch()
    with Exporter(None, f"--dovecot.log-file={log}") as exporter, mtail(directory, log) as peer:
        for pid in (exporter.pid, peer.pid):
            wait_until(lambda: position(pid, log) >= 0, 20, "the log to be opened")
        before = cpu(exporter.pid), cpu(peer.pid)
        time.sleep(size.idle)
        ours, its = ((cpu(pid) - at) / size.idle * 100 for pid, at in zip((exporter.pid, peer.pid), before))
        row("share of a core when idle", f"{ours:.3f} %", "mtail", f"{its:.3f} %", f"{its / ours:.2f} less", "<= 0.1 %",
            ours)


def sampler(size: Size, directory: Path) -> None:
    """What the look at Dovecot's processes once a second costs: as much more as it takes where there are many."""
    log = directory / "sampler.log"
    log.touch()
    dovecot, others = size.herds[0]
    with contextlib.ExitStack() as stack:
        pids = []
        for herd_size in ((dovecot, others), (0, 0)):
            enter, _ = stack.enter_context(herd(*herd_size))
            exporter = Exporter(None, f"--dovecot.log-file={log}", "--dovecot.doveconf=/bin/false")
            exporter.command[:0] = enter
            stack.enter_context(exporter)
            expect("imap-login processes", processes(exporter), herd_size[0])
            pids.append(child(exporter))
        before = [cpu(pid) for pid in pids]
        time.sleep(size.idle)
        many, none = ((cpu(pid) - at) / size.idle * 100 for pid, at in zip(pids, before))
        what = f"share of a core, sampling {dovecot:,} + {others:,}"
        row(what, f"{many - none:.3f} %", "exporter, 0 + 0", f"{none:.3f} %", bound="<= 0.1 %", value=many - none)


def start_time(size: Size, directory: Path) -> None:
    """From exec to the first page."""
    log = directory / "start.log"
    log.touch()

    def start(*command: str | Path, flag: str) -> float:
        address = f"127.0.0.1:{free_port()}"
        before = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*command, flag + address], **quiet) as process:
            try:
                while not answers(address):
                    if process.poll() is not None or time.perf_counter() > before + 20:
                        raise RuntimeError(f"{command[0]} does not answer")
                    time.sleep(0.0002)  # so as not to take one of two cores from it
                return (time.perf_counter() - before) * 1000
            finally:
                process.kill()

    ours, flag = (exporter_path(), f"--dovecot.log-file={log}"), "--web.listen-address="
    programs = {
        "exporter": lambda: start(*ours, "--dovecot.doveconf=/bin/false", flag=flag),
        "doveconf": lambda: start(*ours, flag=flag),
        "process-exporter": lambda: start(PROCESS_EXPORTER, "-procnames", "imap-login", flag="-web.listen-address="),
    }
    rounds = [{name: program() for name, program in programs.items()} for _ in range(size.starts)]
    figures: Figures = {name: [times[name] for times in rounds] for name in programs}
    for what, name in {"start to first page": "exporter", "the same, doveconf included": "doveconf"}.items():
        value = statistics.median(figures[name])
        row(what, f"{value:.1f} ms", bound="<= 50 ms", value=value)
    compare("start to first page", figures, "ms", "process-exporter", less=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what the exporter costs beside its peers.")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", dest="size", action="store_const", const=QUICK, default=FULL, help="small numbers")
    sizes.add_argument("--large", dest="size", action="store_const", const=LARGE, help="also 5,000 + 5,000 and 20,000 + 5,000")
    all_there_are = {one.__name__: one for one in (scrapes, web, catch_up, flow, delay, copies, idle, sampler, start_time)}
    parser.add_argument("only", nargs="*", help=f"of these: {' '.join(all_there_are)}")
    arguments = parser.parse_args()
    size, names = arguments.size, arguments.only or list(all_there_are)
    if unknown := set(names) - set(all_there_are):
        parser.error(f"there is no {' '.join(unknown)}")
    if os.geteuid() != 0:
        parser.error("must be root: it makes a PID name space")
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"{os.cpu_count()} cores ({model[1] if model else os.uname().machine}), {os.uname().sysname} "
          f"{os.uname().release}, load {os.getloadavg()[0]:.2f}\n")
    print(COLUMNS.format("what", "exporter", "peer", "its figure", "ratio", "bound", "met"))
    print(re.sub("[^|]", "-", COLUMNS.format(*[""] * 7)), flush=True)
    failed = 0
    for benchmark in (all_there_are[name] for name in names):
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            try:
                benchmark(size, Path(directory).resolve())
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                failed = 1
                print(f"{benchmark.__name__} could not be measured: {error}", file=sys.stderr)
    print(f"\nload at the end {os.getloadavg()[0]:.2f}")
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""Real servers for the end-to-end tests, each private to the test that starts it.

`Dovecot` runs either generation on loopback out of one temporary directory,
`Exporter` runs the program under test, `Prometheus` scrapes it, `Alertmanager` sends
its alerts to a `Webhook`. All are context managers, leave nothing behind, and end
with the test run even if it is killed.

The tests must run as root: Dovecot's master does, and so does chroot.
`install-packages.sh` beside this file installs what is needed.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "pass"
USERS = 999
PERFORMANCE_MODE: Mapping[str, str | int] = {
    "restart_request_count": "unlimited",
    "process_min_avail": 1,
}

# Both generations see the lab under this path; a longer one (TMPDIR) might also
# exceed the 107 bytes a Unix socket's name may have.
_TMP = Path("/tmp")
_MAIL_UIDS = 50000  # user n is this plus n, which no password file needs to know
_NOBODY = 65534

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float, what: str, every: float = 0.02) -> T:
    """Returns the first true value of `condition`; the only place that sleeps."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s in vain for {what}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on.

    It is below the range the kernel takes client ports from, so that no client of
    this very test can get hold of it before the server does.
    """
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Stat(NamedTuple):
    """What the lab needs of /proc/PID/stat."""

    pid: int
    state: str
    parent: int
    session: int


def process_stats() -> Iterator[Stat]:
    """Every process of the machine, by the lab's own walk of /proc."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended during the walk
        # The name in parentheses may itself hold blanks and parentheses.
        fields = text[text.rindex(")") + 1 :].split()
        yield Stat(int(entry), fields[0], int(fields[1]), int(fields[3]))


def session(leader: int) -> list[int]:
    """The live processes of a session; its zombies end when the machine's init pleases."""
    return [stat.pid for stat in process_stats() if stat.session == leader and stat.state not in "ZX"]


def as_nobody() -> list[str]:
    """What makes the command behind it run without any privilege."""
    return [
        *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"),
        # Again: a change of uid clears what `Server` has set.
        *("setpriv", "--pdeathsig", "TERM"),
    ]


def _argument_zero(pid: int) -> str:
    try:
        command = Path("/proc", str(pid), "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return command.split(b"\0", 1)[0].decode(errors="replace")


class Server:
    """A child process that ends with its test: context manager, exit hook, death signal."""

    process: subprocess.Popen[bytes] | None = None

    def __init__(self) -> None:
        # For interpreters that end without leaving the `with` block.
        atexit.register(self.close)

    def __enter__(self: T) -> T:
        try:
            self.start()  # type: ignore[attr-defined]
        except BaseException:
            self.close()  # type: ignore[attr-defined]
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> object:
        raise NotImplementedError

    def close(self) -> None:
        """Stops the server and removes its files; may be called again."""
        try:
            self.stop()
        finally:
            self._remove_files()
            atexit.unregister(self.close)

    def _remove_files(self) -> None:
        """For those who have any."""

    def _spawn(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Starts `command` in a session of its own.

        The session is how its descendants are found even when their parent is dead.
        The death signal (of the *thread* that calls this) covers a killed test run;
        setpriv sets it because a preexec_fn is unsafe once there are threads.
        """
        if self.process is not None:
            raise RuntimeError(f"{type(self).__name__} is already running")
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *map(str, command)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )
        return self.process

    def _terminate(self, timeout: float) -> int:
        """Ends the child, by force if it must, and returns its exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


# --- Dovecot ------------------------------------------------------------------

# protocol: (the service that listens, its listeners; those in "s" speak TLS)
_LISTENERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "imap": ("imap-login", ("imap", "imaps")),
    "pop3": ("pop3-login", ("pop3", "pop3s")),
    "submission": ("submission-login", ("submission", "submissions")),
    "sieve": ("managesieve-login", ("sieve",)),
    "lmtp": ("lmtp", ("lmtp",)),
}

_CONFIG_2_3 = """\
disable_plaintext_auth = no
ssl_cert = <{lab}/cert.pem
ssl_key = <{lab}/key.pem
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = {lab}/users
}}
userdb {{
  driver = passwd-file
  args = {lab}/users
}}
"""

_CONFIG_2_4 = """\
auth_allow_cleartext = yes
ssl_server_cert_file = {lab}/cert.pem
ssl_server_key_file = {lab}/key.pem
mail_driver = maildir
mail_path = ~/Maildir
passdb passwd-file {{
  passwd_file_path = {lab}/users
}}
userdb passwd-file {{
  passwd_file_path = {lab}/users
}}
"""

_DROP_WARNING = re.compile(
    r"^[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d master: Warning: service\((?P<service>[a-z0-9_-]+)\): "
    r"(?:process_limit|client_limit(?:/(?:service_count|restart_request_count))?) \(\d+\) reached, "
    r"client connections are being dropped(?: \(pid=\d+, reuse_port=yes\))?$"
)
_RELOADED = "master: Warning: SIGHUP received - reloading configuration\n"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a test may choose about its Dovecot."""

    protocols: Sequence[str] = ("imap",)
    # Per service its settings. `restart_request_count` is translated for 2.3,
    # where it is `service_count` and "unlimited" is 0.
    services: Mapping[str, Mapping[str, str | int]] = dataclasses.field(default_factory=dict)
    # Further configuration, in the language of the generation; overrides the rest.
    settings: str = ""
    instance_name: str | None = None
    verbose_proctitle: bool = False
    auth_verbose: bool = False
    auth_debug: bool = False


@functools.cache
def _certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, made once per test run."""
    with tempfile.TemporaryDirectory() as directory:
        cert, key = Path(directory, "cert"), Path(directory, "key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-out", cert, "-keyout", key],
            check=True,
            capture_output=True,
        )
        return cert.read_bytes(), key.read_bytes()


def trixie_root() -> Path:
    """Where install-packages.sh puts the root directory with Dovecot 2.4."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "dovecot-capacity-exporter", "trixie")


class Dovecot(Server):
    """A Dovecot of generation "2.3" (the machine's) or "2.4" (in a chroot), with users u1..u999.

    `root` is where it is installed, if not there: Path("/") on a machine that has 2.4.
    `lab` is its directory; `config`, `log_path` and `base_dir` lie in it and, like
    `doveconf` and `doveadm`, may be used from outside the chroot as well.
    `ports` maps listener names (imap, imaps, pop3, ...) to ports of 127.0.0.1.
    """

    def __init__(self, generation: str, root: Path | None = None, **options: Any) -> None:
        if generation not in ("2.3", "2.4"):
            raise ValueError(f"no such generation of Dovecot: {generation}")
        self.generation = generation
        self.options = Options(**options)
        self.ports: dict[str, int] = {}
        root = root or (trixie_root() if generation == "2.4" else Path("/"))
        if not (root / "usr/sbin/dovecot").exists():
            raise FileNotFoundError(f"no Dovecot {generation}: run tests/e2e/install-packages.sh")
        self._enter_root = [] if root == Path("/") else ["chroot", str(root)]

        self._directory = Path(tempfile.mkdtemp(prefix="dovecot-lab-", dir=root / "tmp"))
        self.lab = _TMP / self._directory.name
        super().__init__()  # from here on there is something to remove
        if self._enter_root:
            # One path that holds inside and outside of the chroot.
            self.lab.symlink_to(self._directory)
        self.config = self.lab / "dovecot.conf"
        self.log_path = self.lab / "dovecot.log"
        self.base_dir = self.lab / "run"
        self.doveconf = self._outside("doveconf")
        self.doveadm = self._outside("doveadm")
        self._furnish()
        self.write_config()

    def _outside(self, tool: str) -> Path:
        """A way to call `tool` that does not ask the caller for a chroot."""
        if not self._enter_root:
            return Path("/usr/bin", tool)
        wrapper = self.lab / tool
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(self._enter_root)} /usr/bin/{tool} "$@"\n')
        wrapper.chmod(0o755)
        return wrapper

    def _furnish(self) -> None:
        self._directory.chmod(0o755)  # Dovecot's unprivileged processes pass through
        cert, key = _certificate()
        (self.lab / "cert.pem").write_bytes(cert)
        (self.lab / "key.pem").write_bytes(key)
        # Each user has a uid: the kernel grants a uid only 128 inotify instances, and
        # every idle client takes one.
        users = ((number, _MAIL_UIDS + number) for number in range(1, USERS + 1))
        (self.lab / "users").write_text(
            "".join(
                f"u{number}:{{PLAIN}}{PASSWORD}:{uid}:{uid}::{self.lab}/mail/u{number}::\n"
                for number, uid in users
            )
        )
        (self.lab / "mail").mkdir()
        (self.lab / "mail").chmod(0o1777)

    def write_config(self, **changes: Any) -> None:
        """Writes the configuration, with some options replaced; takes effect at a start or reload."""
        self.options = dataclasses.replace(self.options, **changes)
        for protocol in self.options.protocols:
            for listener in _LISTENERS[protocol][1]:
                while listener not in self.ports:
                    if (port := free_port()) not in self.ports.values():
                        self.ports[listener] = port
        # In one step: somebody may be watching the file.
        draft = self.config.with_suffix(".draft")
        draft.write_text("".join(self._config()))
        draft.rename(self.config)

    def _config(self) -> Iterator[str]:
        options = self.options
        if self.generation == "2.4":
            # Must come first.
            yield "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
        for name, value in {
            "base_dir": self.base_dir,
            "state_dir": self.lab / "state",
            "log_path": self.log_path,
            "instance_name": options.instance_name,
            "listen": "127.0.0.1",
            "protocols": " ".join(options.protocols),
            "ssl": "yes",
            "verbose_proctitle": _yes_no(options.verbose_proctitle),
            "auth_verbose": _yes_no(options.auth_verbose),
            "auth_debug": _yes_no(options.auth_debug),
            "mail_max_userip_connections": 100000,
        }.items():
            if value is not None:
                yield f"{name} = {value}\n"
        template = _CONFIG_2_4 if self.generation == "2.4" else _CONFIG_2_3
        yield template.format(lab=self.lab)

        for protocol in options.protocols:
            service, listeners = _LISTENERS[protocol]
            yield f"service {service} {{\n"
            for listener in listeners:
                tls = "    ssl = yes\n" if listener.endswith("s") else ""
                yield f"  inet_listener {listener} {{\n    port = {self.ports[listener]}\n{tls}  }}\n"
            yield "}\n"
        for service, settings in options.services.items():
            yield f"service {service} {{\n"
            for name, value in settings.items():
                if name == "restart_request_count" and self.generation == "2.3":
                    name, value = "service_count", 0 if value == "unlimited" else value
                yield f"  {name} = {value}\n"
            yield "}\n"
        yield options.settings.rstrip("\n") + "\n"

    def start(self) -> None:
        """Starts the master and returns when it answers."""
        stderr = self.lab / "stderr"
        with stderr.open("wb") as sink:
            process = self._spawn(
                [*self._enter_root, "/usr/sbin/dovecot", "-F", "-c", self.config],
                stdout=sink,
                stderr=sink,
            )

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"Dovecot ended: {stderr.read_text()}\n{self.log_text()}")
            # The pid file comes after the listeners; asking the master needs no client.
            pid_file = self.base_dir / "master.pid"
            return pid_file.exists() and bool(self._try_doveadm("service", "status"))

        wait_until(answers, 20, "Dovecot's master to answer")

    def stop(self) -> None:
        """Ends the master and returns when every process it ever started is gone."""
        if self.process is None:
            return
        leader = self.process.pid
        self._terminate(timeout=20)
        # Those that outlive their master: its crash, or shutdown_clients = no.
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for pid in session(leader):
                try:
                    os.kill(pid, signal_number)
                except ProcessLookupError:
                    pass
            try:
                wait_until(lambda: not session(leader), 5, "Dovecot's processes to end")
                break
            except TimeoutError:
                if signal_number == signal.SIGKILL:
                    raise
        # A killed master leaves these, and the next start would stumble over them.
        (self.base_dir / "master.pid").unlink(missing_ok=True)

    def _remove_files(self) -> None:
        if self.lab.is_symlink():
            self.lab.unlink()
        shutil.rmtree(self._directory, ignore_errors=True)

    def admin(self, *arguments: str) -> str:
        """What `doveadm ARGUMENTS` prints, asked of this Dovecot."""
        result = subprocess.run(
            [self.doveadm, "-c", self.config, *arguments], capture_output=True, text=True, timeout=20
        )
        if result.returncode != 0:
            raise RuntimeError(f"doveadm {arguments}: {result.returncode}: {result.stderr}")
        return result.stdout

    def _try_doveadm(self, *arguments: str) -> str:
        try:
            return self.admin(*arguments)
        except RuntimeError:
            return ""

    def reload(self) -> None:
        """`doveadm reload`; returns when the new configuration is in force."""
        before = self.log_text().count(_RELOADED)
        self.admin("reload")
        wait_until(lambda: self.log_text().count(_RELOADED) > before, 10, "Dovecot to reload")
        # The master reloads between two requests, so an answer means that it is done.
        self.admin("service", "status")

    def services(self) -> dict[str, dict[str, str | int]]:
        """The master's own counts and limits per service, by doveadm's field names."""
        header, *rows = self.admin("-f", "tab", "service", "status").splitlines()
        names = header.split("\t")
        services = {}
        for row in rows:
            fields = [int(field) if field.isdigit() else field for field in row.split("\t")]
            services[str(fields[0])] = dict(zip(names, fields, strict=True))
        return services

    def service_status(self, service: str) -> dict[str, str | int]:
        """`services()` of one service."""
        return self.services()[service]

    @property
    def enter_root(self) -> list[str]:
        """What makes the command behind it run where this Dovecot runs, and see the machine's processes."""
        if not self._enter_root:
            return []
        mount = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, self._enter_root[-1]]

    @property
    def master_pid(self) -> int:
        """The pid in master.pid, which is also that of the process we started."""
        return int((self.base_dir / "master.pid").read_text())

    def log_text(self) -> str:
        """All of the log so far."""
        try:
            return self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def warnings(self, service: str | None = None) -> list[str]:
        """The log's lines in which the master says that a service is full."""
        found = map(_DROP_WARNING.match, self.log_text().split("\n"))
        return [match[0] for match in found if match and service in (None, match["service"])]

    def processes(self, name: str) -> list[int]:
        """The pids of the master's children that run `name`, by argv[0] as Dovecot sets it."""
        master = self.master_pid
        # With verbose_proctitle the title follows after a blank.
        return [
            stat.pid
            for stat in process_stats()
            if stat.parent == master
            and _argument_zero(stat.pid).split(" ")[0].rpartition("/")[2] == name
        ]


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


# --- HTTP and the text format -------------------------------------------------


def http_get(address: str, path: str, headers: Mapping[str, str] = {}) -> tuple[int, str, str]:
    """Status, content type and body. Not by urllib, which would heed proxy settings."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


Series = tuple[str, frozenset[tuple[str, str]]]

_COMMENT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)")
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? "
    r"([-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|Inf)|NaN)(?: -?[0-9]+)?"
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(?:,|$)')
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("",),
    "gauge": ("",),
    "untyped": ("",),
    "summary": ("", "_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}


def parse_metrics(text: str) -> dict[Series, float]:
    """Reads the text format 0.0.4, and takes nothing that is not exactly that.

    Every sample must stand under the TYPE of its family, families must not repeat,
    nor series: Prometheus itself would let much of this pass and drop data.
    """
    if not text.endswith("\n"):
        raise ValueError("the page does not end in a line feed")
    types: dict[str, str] = {}
    helps: set[str] = set()
    family = ""
    series: dict[Series, float] = {}
    for line in text[:-1].split("\n"):
        if comment := _COMMENT.fullmatch(line):
            kind, name, rest = comment.groups()
            if name in types or (kind == "HELP" and name in helps):
                raise ValueError(f"repeated: {line}")
            if kind == "HELP":
                helps.add(name)
            elif rest not in _SUFFIXES:
                raise ValueError(f"no such type: {line}")
            else:
                types[name] = rest
                family = name
            continue
        sample = _SAMPLE.fullmatch(line)
        if not sample:
            raise ValueError(f"neither sample nor comment: {line!r}")
        name, labels, value = sample.groups()
        if not family or name not in [family + end for end in _SUFFIXES[types[family]]]:
            raise ValueError(f"does not stand under its TYPE: {line}")
        key = (name, frozenset(_parse_labels(labels or "").items()))
        if key in series:
            raise ValueError(f"repeated: {line}")
        series[key] = float(value)
    return series


def _parse_labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if not match or match[1] in labels:
            raise ValueError(f"bad labels: {text}")
        # Pairwise from the left: in \\n the n is no line feed.
        labels[match[1]] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], match[2])
        position = match.end()
    return labels


# --- the exporter -------------------------------------------------------------

_ADDRESS = re.compile(r'(?:^| )address="?([^" ]+)"?')
_LISTENING = re.compile(r'(?:^| )(?:message|msg)="?listening"?(?: |$)')


def exporter_path() -> Path:
    """The program under test: $EXPORTER, else cargo's release build."""
    return Path(os.environ.get("EXPORTER") or REPOSITORY / "target/release/dovecot-capacity-exporter")


class Exporter(Server):
    """The exporter on a port of its own, watching `dovecot` (or nothing in particular).

    A flag among `arguments` replaces the one that would be given for `dovecot`.
    `stderr` holds every line it logged, those of earlier starts included.
    """

    def __init__(self, dovecot: Dovecot | None, *arguments: str) -> None:
        flags = {"--web.listen-address": "127.0.0.1:0"}
        if dovecot is not None:
            flags["--dovecot.config"] = str(dovecot.config)
            flags["--dovecot.doveconf"] = str(dovecot.doveconf)
            flags["--dovecot.log-file"] = str(dovecot.log_path)
        given = {argument.partition("=")[0] for argument in arguments}
        defaults = [f"{flag}={value}" for flag, value in flags.items() if flag not in given]
        self.command = [str(exporter_path()), *defaults, *arguments]
        self.stderr: list[str] = []
        self.address = ""
        self._reader: threading.Thread | None = None
        super().__init__()

    @classmethod
    def unprivileged(cls, dovecot: Dovecot, *arguments: str) -> Exporter:
        """One that runs as nobody where `dovecot` runs, in the chroot of 2.4 as well."""
        program = dovecot.lab / "exporter"  # where nobody may pass through
        shutil.copy(exporter_path(), program)
        if not any(argument.startswith("--dovecot.doveconf=") for argument in arguments):
            arguments = ("--dovecot.doveconf=/usr/bin/doveconf", *arguments)
        exporter = cls(dovecot, *arguments)
        exporter.command[0] = str(program)
        exporter.command[:0] = [*dovecot.enter_root, *as_nobody()]
        return exporter

    def start(self) -> None:
        """Starts it and returns when it has logged its address."""
        seen = len(self.stderr)
        process = self._spawn(self.command, stderr=subprocess.PIPE)
        # A reader of its own, so that the exporter never blocks on a full pipe.
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()

        def listening() -> str | None:
            for line in self.stderr[seen:]:
                if _LISTENING.search(line) and (address := _ADDRESS.search(line)):
                    return address[1]
            if process.poll() is not None:
                raise RuntimeError(f"the exporter ended with {process.returncode}: {self.stderr[seen:]}")
            return None

        self.address = wait_until(listening, 20, "the exporter to listen")

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self.stderr.append(line.decode(errors="replace").rstrip("\n"))

    def stop(self) -> tuple[int, float]:
        """Ends it with SIGTERM; its exit code and the seconds it took. (0, 0.0) if none runs."""
        if self.process is None:
            return 0, 0.0
        before = time.monotonic()
        code = self._terminate(timeout=10)
        seconds = time.monotonic() - before
        assert self._reader is not None
        self._reader.join()
        return code, seconds

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, content type and body of a page; headers as keywords (Accept="...")."""
        return http_get(self.address, path, headers)

    def metrics(self) -> dict[Series, float]:
        """What a scrape in the text format returns."""
        status, content_type, body = self.get("/metrics", Accept="text/plain;version=0.0.4")
        if status != 200 or not content_type.startswith("text/plain; version=0.0.4"):
            raise RuntimeError(f"GET /metrics: {status}, {content_type}: {body[:500]}")
        return parse_metrics(body)

    def value(self, name: str, **labels: str) -> float | None:
        """One scrape's value of exactly this series, None if it is absent."""
        return self.metrics().get((name, frozenset(labels.items())))


# --- Prometheus, Alertmanager and who is told ---------------------------------


class _WebServer(Server):
    """A server that listens on `address`, keeps its files in a directory, and says when it is ready."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-lab-"))
        super().__init__()
        self.address = f"127.0.0.1:{free_port()}"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self._directory / "stderr").open("wb") as sink:
            command = [*self._command(), f"--web.listen-address={self.address}"]
            self._spawn(command, stdout=sink, stderr=sink)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when it answers queries; `start` has already waited."""
        name = type(self).__name__

        def ready() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{name} ended: {(self._directory / 'stderr').read_text()}")
            try:
                return http_get(self.address, "/-/ready")[0] == 200
            except OSError:
                return False

        wait_until(ready, 30, f"{name} to be ready")

    def stop(self) -> None:
        if self.process is not None:
            self._terminate(timeout=20)

    def _remove_files(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class Prometheus(_WebServer):
    """A Prometheus that scrapes `targets` (host:port) every second.

    `rules` are rule files; they are evaluated every second as well, and the alerts go to `alertmanager`.
    `scrape` is added to the scrape configuration: scheme, certificates, a password.
    """

    def __init__(
        self,
        targets: Sequence[str],
        rules: Sequence[Path] = (),
        job: str = "dovecot",
        alertmanager: Alertmanager | None = None,
        scrape: Mapping[str, Any] = {},
    ) -> None:
        super().__init__()
        self.config = self._directory / "prometheus.yml"
        job_config = {"job_name": job, "static_configs": [{"targets": list(targets)}], **scrape}
        told = [alertmanager.address] if alertmanager else []
        # JSON is YAML.
        self.config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(Path(rule).resolve()) for rule in rules],
                    "scrape_configs": [job_config],
                    "alerting": {"alertmanagers": [{"static_configs": [{"targets": told}]}]},
                }
            )
        )

    def _command(self) -> list[str]:
        data = f"--storage.tsdb.path={self._directory}/data"
        return ["/usr/bin/prometheus", f"--config.file={self.config}", data]

    def api(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the HTTP API, for example api("rules")."""
        url = f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        answer = json.loads(http_get(self.address, url)[2])
        if answer["status"] != "success":
            raise RuntimeError(f"{url}: {answer}")
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an instant query's vector."""
        data = self.api("query", query=expression)
        if data["resultType"] != "vector":
            raise ValueError(f"{expression} is a {data['resultType']}, not a vector")
        return [(result["metric"], float(result["value"][1])) for result in data["result"]]

    def targets(self) -> dict[str, dict[str, Any]]:
        """Per scrape target (host:port) its state: `health`, `lastError`, `lastScrapeDuration`."""
        active = self.api("targets", state="active")["activeTargets"]
        return {target["labels"]["instance"]: target for target in active}


class Message(NamedTuple):
    """What a webhook was sent: when, by time.monotonic(), on behalf of which receiver, and what."""

    at: float
    receiver: str
    payload: dict[str, Any]


class Webhook(http.server.ThreadingHTTPServer):
    """Takes what Alertmanager sends to http://ADDRESS/RECEIVER."""

    daemon_threads = True

    def __init__(self) -> None:
        self.messages: list[Message] = []
        super().__init__(("127.0.0.1", 0), _WebhookRequest)
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _WebhookRequest(http.server.BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        at = time.monotonic()
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.messages.append(Message(at, self.path.removeprefix("/"), payload))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Alertmanager(_WebServer):
    """An Alertmanager of its own, without peers, with this configuration (YAML)."""

    def __init__(self, config: str) -> None:
        super().__init__()
        self._config = self._directory / "alertmanager.yml"
        self._config.write_text(config)

    def _command(self) -> list[str]:
        return [
            *("/usr/bin/prometheus-alertmanager", f"--config.file={self._config}"),
            *(f"--storage.path={self._directory}/data", "--cluster.listen-address="),
        ]

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """The alerts it has now, inhibited ones too, with exactly these values of these labels."""
        filters = [("filter", f"{name}={json.dumps(value)}") for name, value in labels.items()]
        return json.loads(http_get(self.address, f"/api/v2/alerts?{urllib.parse.urlencode(filters)}")[2])

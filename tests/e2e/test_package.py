"""The packages and units in a real systemd, beside the Dovecot of Debian: installed, run, upgraded and purged."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from lab import REPOSITORY, wait_until
from machine import UNIT, Machine

INSTALL = (REPOSITORY / "docs/install.md").read_text()
NAME = "dovecot-capacity-exporter"
SOURCES = {"procfs", "journal", "limits", "state"}
WARNING = "master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped"


def commands(heading: str) -> list[str]:
    """Those of a section of docs/install.md, in the order in which they are to be given."""
    section = re.split(r"\n#+ ", INSTALL.partition(f"# {heading}\n")[2])[0]
    return [line[4:] for line in section.splitlines() if line.startswith("    ")]


MAKE_DEB, APT_INSTALL, RESTART, APT_PURGE = commands("Debian and its kin")
MAKE_RPM, RPM_INSTALL, *RPM_START = commands("Red Hat and its kin")
CARGO_BUILD, *BY_HAND = commands("systemd, by hand")
MASTER_SOCKET = commands("The master's socket")
SOCKET = commands("Socket activation")
TLS = commands("TLS in the unit")


def setUpModule() -> None:
    for command in (MAKE_DEB, MAKE_RPM):
        made = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True)
        if made.returncode != 0:
            raise RuntimeError(f"{command}: {made.stdout}{made.stderr}")


def package(pattern: str) -> Path:
    return max((REPOSITORY / "target").glob(pattern), key=lambda file: file.stat().st_mtime)


def upgraded(folder: str) -> Path:
    """The Debian package once more, with a higher version."""
    subprocess.run(["dpkg-deb", "--raw-extract", package("debian/*.deb"), f"{folder}/new"], check=True)
    control = Path(folder, "new/DEBIAN/control")
    control.write_text(re.sub(r"^Version: .*$", "Version: 999-1", control.read_text(), flags=re.M))
    new = Path(folder, "new.deb")
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", f"{folder}/new", new], check=True, capture_output=True)
    return new


def sources(machine: Machine) -> dict[str, float]:
    return machine.labels("dovecot_exporter_source_up", "source")


def warnings_in_journal(machine: Machine) -> int:
    return int(machine.ask(f"journalctl --identifier=dovecot --output=cat | grep -c --fixed-strings '{WARNING}'"))


def warnings(machine: Machine) -> float | None:
    return machine.value("dovecot_service_drop_warnings_total", service="imap-login", limit="process_limit")


def warn(machine: Machine) -> None:
    machine.run(f"echo '{WARNING}' | systemd-cat --identifier=dovecot --priority=warning; journalctl --sync")


def configure(machine: Machine, **settings: str) -> None:
    """Adds to the unit, and restarts it."""
    text = "[Service]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
    machine.write(f"/etc/systemd/system/{UNIT}.service.d/test.conf", text)
    machine.run(f"systemctl daemon-reload && systemctl restart {UNIT}")


class Files(unittest.TestCase):
    def test_lintian(self):
        """Whoever publishes the package puts an address in; it closes no bug of Debian's."""
        unfit = "bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs"
        lintian = ["lintian", "--allow-root", "--fail-on=error,warning", f"--suppress-tags={unfit}"]
        done = subprocess.run([*lintian, package("debian/*.deb")], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_both_packages_have_the_same(self):
        listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package("debian/*.deb")], capture_output=True, check=True)
        names = subprocess.run(["tar", "--list"], input=listed.stdout, capture_output=True, check=True).stdout.decode()
        debian = {name[1:].removesuffix(".gz") for name in names.split() if not name.endswith("/")}
        redhat = set(self.query("--list").split())
        for name in ("copyright", "changelog", "changelog.Debian"):
            debian.remove(f"/usr/share/doc/{NAME}/{name}")
        for name in ("LICENSE", "LICENSE-MIT", "LICENSE-APACHE"):
            redhat.remove(f"/usr/share/licenses/{NAME}/{name}")
        redhat.remove(f"/usr/share/doc/{NAME}/CHANGELOG.md")
        self.assertEqual({name.replace("vendor-completions", "site-functions") for name in debian}, redhat)
        for name in ("alerts/dovecot.rules.yml", "dashboards/dovecot-capacity-host.json", "systemd/master-socket.conf"):
            self.assertIn(f"/usr/share/{NAME}/{name}", redhat)

    def test_what_the_rpm_says(self):
        self.assertEqual(self.query("--configfiles").split(), [f"/etc/default/{NAME}"])
        requires = self.query("--requires")
        for word in ("systemd", "/bin/sh", "libc.so.6"):
            self.assertRegex(requires, rf"(?m)^{word}")
        self.assertEqual(re.findall(r"^(\w+) scriptlet", self.query("--scripts"), re.M), ["postinstall", "preuninstall", "postuninstall"])

    def query(self, *options: str) -> str:
        command = ["rpm", "--query", "--package", *options, package("generate-rpm/*.rpm")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Debian(unittest.TestCase):
    def setUp(self):
        self.machine = self.enterContext(Machine())
        self.before = self.everything()
        self.machine.run(APT_INSTALL)

    def everything(self) -> dict[str, set[str]]:
        """What a package may leave behind; the rest is dpkg's own, logs, and the manual's index."""
        lists = {
            "files": "find / -xdev -not -path '/var/log/*' -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*'",
            "users": "getent passwd; getent group",
            "units": "systemctl list-unit-files --no-legend; systemctl list-units --all --no-legend --plain 'dovecot*'",
            "packages": "dpkg-query --show",
        }
        return {what: set(self.machine.run(command).splitlines()) for what, command in lists.items()}

    def test_metrics(self):
        machine = self.machine
        self.assertEqual(machine.show(UNIT, "ActiveState"), "active")
        self.assertEqual(machine.ask(f"systemctl is-enabled {UNIT}.service {UNIT}.socket"), "enabled\ndisabled")
        self.assertEqual(machine.run(f"ps --no-headers -o user:20 -p {machine.show(UNIT, 'MainPID')}").strip(), "dovecot-exporter")
        machine.write("/etc/dovecot/local.conf", "service imap-login {\n  process_limit = 5\n}\n")
        machine.run("doveadm reload")
        wait_until(lambda: machine.value("dovecot_service_process_limit", service="imap-login") == 5, 20, "the limit")

        def counts() -> bool:
            status = json.loads(machine.run("doveadm -f json service status"))
            counted = {service["name"]: float(service["process_count"]) for service in status}
            seen = machine.labels("dovecot_service_processes", "service")
            return seen["imap-login"] == 3 and seen == {service: counted[service] for service in seen}

        with machine.clients(3):
            wait_until(counts, 20, "the counts of doveadm")
        with machine.clients(12):
            wait_until(lambda: warnings_in_journal(machine), 20, "Dovecot to warn")
            wait_until(lambda: warnings(machine) == warnings_in_journal(machine), 20, "as many as in the journal")
            queue = ("dovecot_listener_queue_connections", frozenset({("service", "imap-login"), ("port", "143")}))
            wait_until(lambda: machine.metrics()[queue] > 0, 20, "clients that wait")
        self.assertEqual(sources(machine), {source: 1 for source in SOURCES} | {"master": 0})
        self.assertGreater(machine.value("dovecot_listener_queue_limit", service="imap-login", port="143"), 0)
        self.assertEqual(machine.run("systemctl --failed --no-legend"), "")

    def test_life(self):
        """Restarted, stopped while Dovecot warns, upgraded, and purged without a trace."""
        machine = self.machine
        machine.run(RESTART)
        wait_until(lambda: warnings(machine) == 0, 20, "the journal to be read")
        machine.run(f"systemctl stop {UNIT}")
        warn(machine)
        machine.run(f"systemctl start {UNIT}")
        wait_until(lambda: warnings(machine) == 1, 20, "the warning of meanwhile")
        pid = machine.show(UNIT, "MainPID")
        machine.write(f"/etc/default/{NAME}", 'ARGS="--log.level=debug"\n')
        with tempfile.TemporaryDirectory() as folder:
            Path(f"/proc/{machine.pid}/root/root/new.deb").write_bytes(upgraded(folder).read_bytes())
        machine.run("apt install /root/new.deb && rm /root/new.deb")
        self.assertEqual(machine.run(f"dpkg-query --show --showformat='${{Version}}' {NAME}"), "999-1")
        self.assertNotEqual(machine.show(UNIT, "MainPID"), pid)
        self.assertIn("--log.level=debug", machine.run(f"tr '\\0' ' ' < /proc/{machine.show(UNIT, 'MainPID')}/cmdline"))
        wait_until(lambda: warnings(machine) == 1, 20, "the count to be kept")
        machine.run(f"{APT_PURGE} --assume-yes")
        self.assertIn("Connection refused", machine.ask("curl --silent --show-error --verbose http://localhost:9166"))
        after = self.everything()
        for what, before in self.before.items():
            self.assertEqual(after[what] ^ before, set(), what)

    def test_disabled_it_stays(self):
        """An administrator's word holds through upgrade and removal."""
        machine = self.machine
        machine.run(f"systemctl disable --now {UNIT}")
        with tempfile.TemporaryDirectory() as folder:
            Path(f"/proc/{machine.pid}/root/root/new.deb").write_bytes(upgraded(folder).read_bytes())
        machine.run("apt install /root/new.deb")
        self.assertEqual(machine.show(UNIT, "ActiveState"), "inactive")
        machine.run(f"systemctl enable {UNIT} && apt remove --assume-yes {NAME}")
        machine.run("apt install /root/new.deb")
        self.assertEqual(machine.show(UNIT, "ActiveState"), "active")

    def test_hardening(self):
        machine = self.machine
        units = f"{UNIT}.service {UNIT}.socket"
        self.assertEqual(machine.ask(f"systemd-analyze verify {units}"), "")
        report = machine.run(f"systemd-analyze security --no-pager {UNIT}.service")
        level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
        self.assertLessEqual(float(level[1]), 2.0, report)

    def test_manual_and_completion(self):
        machine = self.machine
        usage = machine.run(f"{NAME} --help")
        flags = set(re.findall(r"--[a-z]+\.[a-z-]+", usage))
        manual = re.sub(r"-\n\s*", "-", machine.run(f"MANWIDTH=1000 man {NAME}"))
        self.assertEqual(set(re.findall(r"--[a-z]+\.[a-z-]+", manual)), flags)
        self.assertIn("--json", machine.run(f"man {NAME}-status"))
        rules = f"/usr/share/bash-completion/completions/{NAME}"
        function = re.search(r" -F (\S+)", machine.run(f"source {rules}; complete -p {NAME}"))[1]
        complete = f"COMP_WORDS=({NAME} --web.l); COMP_CWORD=1; {function} {NAME} --web.l {NAME}; echo ${{COMPREPLY[@]}}"
        self.assertEqual(machine.run(f"source {rules}; {complete}"), "--web.listen-address\n")

    def test_watchdog(self):
        machine = self.machine

        def restarts() -> int:
            return int(machine.show(UNIT, "NRestarts"))

        def fed() -> int:
            return int(machine.show(UNIT, "WatchdogTimestampMonotonic"))

        configure(machine, WatchdogSec="2", TimeoutAbortSec="1", RestartSec="0")
        began = fed()
        wait_until(lambda: fed() > began + 5_000_000, 30, "the watchdog to be fed for longer than it waits")
        self.assertEqual(restarts(), 0)
        machine.run(f"kill -STOP {machine.show(UNIT, 'MainPID')}")
        wait_until(lambda: restarts() == 1, 30, "the watchdog to bite")
        wait_until(lambda: machine.show(UNIT, "ActiveState") == "active", 20, "the exporter to be back")
        self.assertEqual(machine.value("dovecot_master_up"), 1)
        # Threads that wait for ever for what /proc does not tell, while the event loop goes on.
        machine.run("mkdir -p /srv/proc/1 && mkfifo /srv/proc/1/stat /srv/proc/1/cmdline /srv/proc/1/comm")
        machine.write(f"/etc/default/{NAME}", 'ARGS="--path.procfs=/srv/proc"\n')
        machine.run(RESTART)
        wait_until(lambda: restarts() == 1, 40, "the watchdog to bite again")
        journal = machine.run(f"journalctl --output=cat --unit={UNIT}")
        self.assertEqual(journal.count("Watchdog timeout"), 2)
        self.assertIn("is no longer fed", journal)

    def test_master_socket(self):
        """Only with the drop-in; the state goes along, there and back."""
        machine = self.machine
        warn(machine)
        wait_until(lambda: warnings(machine) == 1, 20, "the warning")
        self.assertEqual(sources(machine)["master"], 0)
        for command in MASTER_SOCKET:
            machine.run(command)
        with machine.clients(2):
            wait_until(lambda: machine.value("dovecot_service_connections", service="imap-login") == 2, 20, "clients")
        self.assertEqual(sources(machine), {source: 1 for source in SOURCES | {"master"}})
        wait_until(lambda: warnings(machine) == 1, 20, "the count to be kept")
        status = machine.run(f"grep -E '^(Uid|Cap)' /proc/{machine.show(UNIT, 'MainPID')}/status").split()
        self.assertEqual(status[:5], ["Uid:", "0", "0", "0", "0"])
        self.assertEqual({word for word in status[5:] if "Cap" not in word}, {"0" * 16})
        self.assertEqual(machine.ask(f"systemd-analyze verify {UNIT}.service"), "")

        def asks() -> bool:
            return sources(machine)["master"] == 1

        machine.run("systemctl restart dovecot")
        wait_until(asks, 20, "the master's new socket")
        machine.run("systemctl stop dovecot && rm -r /run/dovecot && systemctl start dovecot")
        wait_until(lambda: not asks(), 20, "the folder to be missed")
        machine.run(RESTART)
        wait_until(asks, 20, "the new folder")
        (revert,) = re.findall(r"`(systemctl revert .*?)`", INSTALL)
        machine.run(f"{revert} && systemctl restart {UNIT}")
        self.assertEqual(sources(machine)["master"], 0)
        wait_until(lambda: warnings(machine) == 1, 20, "the count to be kept")

    def test_master_socket_is_no_way_to_root(self):
        """systemd trusts root's uid on its sockets, capabilities or not: the system's, and root's own."""
        machine = self.machine
        # PAM would set this; here it does not know systemd.
        user = "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/0\n"
        machine.write("/etc/systemd/system/user@0.service.d/test.conf", user)
        for command in [*MASTER_SOCKET, "systemctl start user@0"]:
            machine.run(command)
        configure(machine, WatchdogSec="2")
        inside = f"nsenter --target={machine.show(UNIT, 'MainPID')} --mount --user --preserve-credentials"
        inside += " setpriv --bounding-set=-all --inh-caps=-all --no-new-privs"

        def attack(enter: str, file: str) -> str:
            """What both managers say when they are told to make a file."""
            said = machine.ask(f"{enter} systemd-run touch /root/system-{file}")
            return said + machine.ask(f"{enter} env XDG_RUNTIME_DIR=/run/user/0 systemd-run --user touch /root/user-{file}")

        # systemd makes its socket anew, then.
        for number, command in enumerate(("true", "systemctl daemon-reexec")):
            machine.run(command)
            said = attack(inside, f"taken-{number}")
            self.assertEqual((said.count("Failed to connect to bus"), said.count("Running as unit")), (2, 0), said)
            attack("", f"given-{number}")
            made = lambda: machine.ask("ls /root | grep -E '^(system|user)-'").split()
            wait_until(lambda: len(made()) >= 2 * (number + 1), 20, "both to do it for those who may ask them")
            self.assertEqual([file for file in made() if "taken" in file], [])
        # Nor is there anybody else who could be asked. What is mounted alone, find takes for a file unless it is tested.
        find = "find / -path /proc -prune -o -type s -print; find /run /var -exec test -S {} ';' -print"
        machine.write("/find", f"({find}) 2>/dev/null | grep -vE '^(/var)?/run/dovecot/' | sort -u")
        self.assertIn("/run/systemd/private", machine.ask("sh /find").splitlines())
        self.assertEqual(machine.ask(f"{inside} sh /find"), "/run/systemd/notify")
        self.assertIn("Permission denied", machine.ask(f"{inside} ls /proc/1/root/run"))
        # The new systemd hears of the exporter as the old one did.
        began = int(machine.show(UNIT, "WatchdogTimestampMonotonic"))
        fed = lambda: int(machine.show(UNIT, "WatchdogTimestampMonotonic")) > began + 3_000_000
        wait_until(fed, 20, "the watchdog to be fed for longer than it waits")
        self.assertEqual(machine.show(UNIT, "NRestarts"), "0")

    def test_socket_activation(self):
        machine = self.machine
        # It leaves flags that are there.
        machine.run(RPM_START[0])
        refused = machine.ask(f"{NAME} --web.systemd-socket; echo $?").splitlines()
        self.assertIn("systemd handed over no socket", refused[-2])
        self.assertEqual(refused[-1], "2")
        for command in SOCKET:
            machine.run(command)
        (both,) = re.findall(r"`(ARGS=.*--web.systemd-socket.*)`", INSTALL)
        self.assertEqual(machine.run(f"grep -v '^#' /etc/default/{NAME}").strip(), both)
        self.assertEqual(machine.show(UNIT, "ActiveState"), "inactive")
        self.assertEqual(machine.value("dovecot_master_up"), 1)
        self.assertEqual(machine.show(UNIT, "ActiveState"), "active")
        # Scrapes wait while it restarts, so not one is refused.
        machine.run(f"systemctl stop {UNIT}.service")
        self.assertEqual(machine.value("dovecot_master_up"), 1)
        machine.run(f"apt reinstall ./{package('debian/*.deb').relative_to(REPOSITORY)}")
        self.assertEqual(machine.value("dovecot_master_up"), 1)
        self.assertEqual(machine.show(f"{UNIT}.socket", "SubState"), "running")


    def test_tls(self):
        """With the example of the package; the exporter reads it also with root's uid and no capability."""
        machine = self.machine
        with tempfile.TemporaryDirectory() as folder:
            pair = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=localhost -keyout server.key -out server.pem"
            extra = "-addext subjectAltName=DNS:localhost -extensions v3_ca"
            subprocess.run(["openssl", "req", "-x509", *pair.split(), *extra.split()], cwd=folder, check=True, capture_output=True)
            for file in ("server.key", "server.pem"):
                machine.write(f"/srv/{file}", Path(folder, file).read_text())
        machine.run(f"cd /srv && cp server.pem ca.pem && cp /usr/share/doc/{NAME}/examples/web-config.yml .")
        for command in [*TLS, *MASTER_SOCKET]:
            machine.run(f"cd /srv && {command}")
            if command == RESTART:
                self.assertEqual(machine.run("stat -c %a:%U:%G /etc/" + NAME + "/server.key").strip(), "640:root:dovecot-exporter")
                # All the rest is test_web_config's.
                ask = "curl -sS --cacert /srv/server.pem https://localhost:9166/metrics"
                self.assertIn("alert certificate required", machine.ask(ask))


class OtherWays(unittest.TestCase):
    def test_rpm(self):
        """On Debian, whose packages rpm does not know; scripts and units are the same to systemd."""
        with Machine() as machine:
            machine.run(f"{RPM_INSTALL} --nodeps")
            self.assertEqual(machine.show(UNIT, "User"), "dovecot-exporter")
            for command in RPM_START:
                machine.run(command)
            self.assertEqual(sources(machine), {source: 1 for source in SOURCES} | {"master": 0})
            (erase,) = re.findall(r"`(rpm --erase .*?)`", INSTALL)
            machine.run(erase)
            self.assertEqual(machine.show(UNIT, "LoadState"), "not-found")
            self.assertEqual(machine.ask(f"pgrep --full ^/usr/bin/{NAME}; find /etc/systemd -name '{NAME}*'"), "")

    def test_by_hand(self):
        self.assertEqual(CARGO_BUILD, "cargo build --release")  # as `make build` does
        with Machine() as machine:
            for command in BY_HAND:
                machine.run(command)
            self.assertEqual(sources(machine), {source: 1 for source in SOURCES} | {"master": 0})
            pid = machine.show(UNIT, "MainPID")
            (reload,) = re.findall(r"`(systemctl reload .*?)`", INSTALL)
            machine.run(reload)
            self.assertEqual(machine.show(UNIT, "MainPID"), pid)


if __name__ == "__main__":
    unittest.main()

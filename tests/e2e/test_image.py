"""The image and compose.yaml: built by the real Dockerfile, run as compose.yaml says, beside a Dovecot that it can see.

containers.py says what stands in for the images of others. Prometheus, Alertmanager and Grafana of compose.yaml do not
run here: their configuration is checked by Debian's programs, and Grafana's only for what it refers to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
import types
import unittest
from collections.abc import Iterator
from pathlib import Path

import containers
from containers import IMAGE, podman, podman_run, run
from imap_clients import Clients
from lab import REPOSITORY, Dovecot, http_get, parse_metrics, wait_until

PATIENCE = 30
ADDRESS = "127.0.0.1:9166"
SERVICE = "imap-login"
WARNING = f"master: Warning: service({SERVICE}): process_limit (100) reached, client connections are being dropped\n"
PROGRAM = "/dovecot-capacity-exporter"
STATE = "/var/lib/dovecot-capacity-exporter"
COMPOSE: dict = {}
SECTION = (REPOSITORY / "docs/install.md").read_text().partition("## Container image")[2].partition("\n## ")[0]
COMMANDS = [line[4:] for line in SECTION.splitlines() if line.startswith("    ")]
BESIDE_CONTAINER, BESIDE_HOST = (command for command in COMMANDS if " run " in command)
LOOK = COMMANDS[-4:]


def setUpModule() -> None:
    held = containers.lock()
    unittest.addModuleCleanup(held.close)  # type: ignore[attr-defined]
    tools = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(tools.cleanup)
    containers.tools(Path(tools.name))
    os.environ["PATH"] = f"{tools.name}:{os.environ['PATH']}"
    COMPOSE.update(containers.read_yaml(REPOSITORY / "compose.yaml"))

    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    containers.make_rust(re.search(r"^ARG RUST_IMAGE=(\S+)$", dockerfile, re.M)[1])
    dovecot, busybox = (COMPOSE["services"][service]["image"] for service in ("dovecot", "log"))
    containers.make_busybox(busybox)
    containers.make_dovecot(dovecot, busybox)
    run("make", "image", cwd=REPOSITORY)
    containers.own_network()


def page() -> dict:
    return parse_metrics(http_get(ADDRESS, "/metrics", {"Accept": "text/plain;version=0.0.4"})[2])


def by_service(name: str) -> dict[str, float]:
    return {dict(labels)["service"]: value for (metric, labels), value in page().items() if metric == name}


def await_page() -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError):
            return http_get(ADDRESS, "/-/ready")[0] == 200
        return False

    wait_until(answers, PATIENCE, "the exporter to answer")


def warnings_counted() -> float | None:
    labels = frozenset({("service", SERVICE), ("limit", "process_limit")})
    return page().get(("dovecot_service_drop_warnings_total", labels))


def compose_flags(name: str) -> list[str]:
    """What `podman run` is to be told so that it starts this service of compose.yaml; every key counts."""
    service = dict(COMPOSE["services"][name])
    # When it starts, from where its image is, and who may reach it from outside.
    for key in ("restart", "depends_on", "build", "ports"):
        service.pop(key, None)
    # Another one would be none of ours.
    service.pop("network_mode", None)
    flags = ["--name", name]
    flags += ["--read-only"] if service.pop("read_only") else []
    for key in ("cap_add", "cap_drop", "security_opt", "tmpfs"):
        flags += [f"--{key.replace('_', '-')}={value}" for value in service.pop(key, [])]
    if pid := service.pop("pid", None):
        flags += ["--pid=" + pid.replace("service:", "container:")]
    for volume in service.pop("volumes"):
        flags += ["--volume=" + re.sub(r"^\./", f"{REPOSITORY}/", volume)]
    command = [word.replace("$$", "$") for word in service.pop("command", [])]
    flags += [service.pop("image"), *command]
    assert not service, f"compose.yaml has {service} for {name}, which this test does not know"
    return flags


def process_of(container: str) -> Path:
    return Path("/proc", podman("inspect", "--format={{.State.Pid}}", container).strip())


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        [cls.image] = json.loads(podman("image", "inspect", IMAGE))
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = Path(folder.name)
        container = containers.buildah("from", IMAGE).strip()
        try:
            run("cp", "-a", containers.buildah("mount", container).strip() + "/.", cls.root)
        finally:
            containers.buildah("rm", container)

    def test_files(self) -> None:
        files = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        self.assertEqual(files, {PROGRAM.strip("/"), "sbom.cdx.json"})
        owners = {str(path): f"{path.stat().st_uid}:{path.stat().st_gid}" for path in [self.root, *self.root.rglob("*")]}
        self.assertEqual(owners.pop(f"{self.root}{STATE}"), self.image["Config"]["User"])
        self.assertEqual(set(owners.values()), {"0:0"}, owners)

    def test_size(self) -> None:
        self.assertLess(self.image["Size"], 10_000_000)

    def test_static_and_of_no_machine(self) -> None:
        """The folders of who built it are not in it; tests/reproducible shows the rest."""
        program = Path(f"{self.root}{PROGRAM}")
        headers = run("readelf", "--program-headers", "--wide", program)
        self.assertIn("LOAD", headers)
        self.assertNotIn("INTERP", headers)
        text = program.read_bytes()
        self.assertIn(b"/cargo/registry/", text)
        for folder in (b"/usr/local/cargo", str(Path.home()).encode() + b"/", str(REPOSITORY).encode()):
            self.assertNotIn(folder, text)

    def test_description(self) -> None:
        config = self.image["Config"]
        package = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]
        expected = {
            "title": package["name"],
            "description": package["description"],
            "licenses": package["license"],
            "version": package["version"],
            "revision": run("git", "rev-parse", "HEAD", cwd=REPOSITORY).strip(),
        }
        for name, value in expected.items():
            self.assertEqual(config["Labels"][f"org.opencontainers.image.{name}"], value)
        self.assertRegex(config["User"], r"^[1-9]\d*:[1-9]\d*$")
        self.assertEqual(config["Entrypoint"], [PROGRAM])
        self.assertEqual(self.image["Healthcheck"]["Test"], ["CMD", PROGRAM, "healthcheck"])

    def test_made_without_rust(self) -> None:
        """Where the engine is all there is, the labels are the same."""
        said = run("make", "--silent", "image", "ENGINE=echo", cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin"})
        self.assertIn(f"VERSION={self.image['Config']['Labels']['org.opencontainers.image.version']} ", said)

    def test_bill_of_materials(self) -> None:
        """It names every crate that is linked, this one's version, and nothing that Cargo.lock does not know."""
        bill = json.loads((self.root / "sbom.cdx.json").read_text())
        self.assertEqual((bill["bomFormat"], bill["specVersion"]), ("CycloneDX", "1.5"))
        tree = ["cargo", "tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}"]
        linked = {tuple(line.split()[:2]) for line in run(*tree, cwd=REPOSITORY).splitlines()}
        parts = [*bill["components"], bill["metadata"]["component"]]
        named = {(part["name"], f"v{part['version']}") for part in parts}
        self.assertEqual(linked - named, set())
        lock = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
        self.assertEqual(named - {(package["name"], f"v{package['version']}") for package in lock}, set())
        self.assertLess(len(named), len(lock))


class Beside(unittest.TestCase):
    """A Dovecot runs as compose.yaml says."""

    def setUp(self) -> None:
        self.addCleanup(containers.clear)
        # Again, as each `up` does.
        for _ in range(2):
            podman_run("--rm", *compose_flags("log"))
        podman_run("--detach", *compose_flags("dovecot"))
        self.log_folder = podman("volume", "inspect", "--format={{.Mountpoint}}", "log").strip()
        self.log = Path(self.log_folder, "dovecot.log")
        wait_until(lambda: "starting up" in self.log.read_text(), PATIENCE, "Dovecot to start")
        config = (REPOSITORY / "examples/compose/dovecot/dovecot.conf").read_text()
        listeners = re.findall(r"inet_listener (\w+) \{\s+port = (\d+)", config)
        ports = {name: int(port) for name, port in listeners}
        self.clients = self.enterContext(Clients(types.SimpleNamespace(ports=ports)))

    def told(self, field: str) -> dict[str, int]:
        """What doveadm says, by service."""
        table = podman("exec", "dovecot", "doveadm", "-f", "tab", "service", "status").splitlines()
        names = table[0].split("\t")
        rows = [dict(zip(names, row.split("\t"), strict=True)) for row in table[1:]]
        return {row["name"]: int(row[field]) for row in rows if row[field].isdigit()}

    def warnings(self) -> int:
        return self.log.read_text().count(WARNING)

    def agree(self, metric: str, field: str) -> bool:
        shown, told = by_service(metric), self.told(field)
        return bool(shown) and shown == {service: told[service] for service in shown}

    def fill(self) -> None:
        self.clients.pre_auth(100)
        self.clients.knock(3, timeout=PATIENCE, until=self.warnings)


class Compose(Beside):
    """So does the exporter."""

    def setUp(self) -> None:
        super().setUp()
        podman_run("--detach", *compose_flags("exporter"))
        await_page()

    def test_counts_limits_and_warnings(self) -> None:
        self.clients.pre_auth(7)
        wait_until(lambda: self.agree("dovecot_service_processes", "process_count"), PATIENCE, "doveadm's counts")
        self.assertEqual(by_service("dovecot_service_processes")[SERVICE], 7)
        running = {service for service, count in self.told("process_count").items() if count}
        self.assertLessEqual(running | {SERVICE, "imap"}, set(by_service("dovecot_service_processes")))
        self.assertTrue(self.agree("dovecot_service_process_limit", "process_limit"))
        self.assertTrue(self.agree("dovecot_service_client_limit", "client_limit"))
        for source in ("procfs", "log", "limits"):
            self.assertEqual(page()["dovecot_exporter_source_up", frozenset({("source", source)})], 1, source)
        self.clients.close()
        self.assertEqual(warnings_counted(), 0)
        wait_until(lambda: by_service("dovecot_service_processes").get(SERVICE, 0) == 0, PATIENCE, "an empty service")
        self.fill()
        wait_until(lambda: warnings_counted() == self.warnings() > 0, PATIENCE, "the warnings")
        self.assertEqual(by_service("dovecot_service_processes")[SERVICE], 100)

    def test_confined(self) -> None:
        process = process_of("exporter")
        status = dict(line.split(":\t") for line in (process / "status").read_text().splitlines() if ":\t" in line)
        self.assertEqual(status["Uid"].split(), ["65532"] * 4)
        self.assertEqual(status["Gid"].split(), ["65532"] * 4)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[name], 16), 0, name)
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        mounts = (line.split() for line in (process / "mountinfo").read_text().splitlines())
        options = {mount[4]: mount[5].split(",")[0] for mount in mounts}
        for path in ("/", "/etc/dovecot", "/var/log/dovecot"):
            self.assertEqual(options[path], "ro", path)
        self.assertEqual(options[STATE], "rw")
        dovecot = process_of("dovecot")
        for name, same in (("pid", True), ("mnt", False)):
            shares = os.readlink(process / "ns" / name) == os.readlink(dovecot / "ns" / name)
            self.assertEqual(shares, same, name)

    def test_stops_and_comes_back(self) -> None:
        """In less than a second, since it is killed after that, and with what was logged meanwhile."""
        state = Path(podman("volume", "inspect", "--format={{.Mountpoint}}", "state").strip(), "state")
        wait_until(state.exists, PATIENCE, "the state")
        podman("stop", "--time=1", "exporter")
        self.assertEqual(podman("inspect", "--format={{.State.ExitCode}}", "exporter").strip(), "0")
        self.fill()
        podman("rm", "exporter")
        podman_run("--detach", *compose_flags("exporter"))
        await_page()
        wait_until(lambda: warnings_counted() == self.warnings() > 0, PATIENCE, "the warnings")

    def test_health(self) -> None:
        check = ["exec", "exporter", PROGRAM, "healthcheck"]
        self.assertEqual(podman(*check), "")
        # The image's own.
        podman("healthcheck", "run", "exporter")
        with self.assertRaisesRegex(RuntimeError, "1: .*no exporter answers on :1 .*--web.listen-address"):
            podman(*check, "--web.listen-address=:1")


class ProcessOne(unittest.TestCase):
    def test_stops(self) -> None:
        """As process 1, for which the kernel does nothing of its own."""
        self.addCleanup(containers.clear)
        podman_run("--detach", "--name=one", "--read-only", "--cap-drop=ALL", IMAGE)
        await_page()
        self.assertIn("\nNSpid:\t", (process_of("one") / "status").read_text())
        self.assertRegex((process_of("one") / "status").read_text(), r"\nNSpid:\t\d+\t1\n")
        # It sees no Dovecot there, and knows that it would not.
        self.assertEqual(page()["dovecot_exporter_source_up", frozenset({("source", "procfs")})], 0)
        podman("stop", "--time=1", "one")
        self.assertEqual(podman("inspect", "--format={{.State.ExitCode}}", "one").strip(), "0")


class Configuration(unittest.TestCase):
    """What compose.yaml mounts into the images that do not run here."""

    def mounts(self, service: str) -> Iterator[tuple[Path, str]]:
        for volume in COMPOSE["services"][service]["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith("./"):
                yield REPOSITORY / source, target

    def test_schemas(self) -> None:
        containers.check_schema("vendor.compose-spec", REPOSITORY / "compose.yaml")
        for workflow in (REPOSITORY / ".github/workflows").iterdir():
            containers.check_schema("vendor.github-workflows", workflow)

    def test_tag_of_another_version(self) -> None:
        """What the release begins with."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("Makefile", "Cargo.toml"):
                shutil.copy(REPOSITORY / name, folder)
            version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]["version"]
            run("git", "init", "--quiet", cwd=folder)
            run("git", "-c", "user.name=a", "-c", "user.email=a", "commit", "--quiet", "--allow-empty", "-m", "a", cwd=folder)
            run("git", "tag", f"v{version}0", cwd=folder)
            with self.assertRaises(RuntimeError):
                run("make", "tagged", cwd=folder)
            run("git", "tag", f"v{version}", cwd=folder)
            run("make", "tagged", cwd=folder)

    def test_what_is_mounted_is_there(self) -> None:
        named = [place for service in COMPOSE["services"] for place, _ in self.mounts(service)]
        self.assertGreater(len(named), 5)
        for place in named:
            self.assertTrue(place.exists(), place)

    def test_prometheus_and_alertmanager(self) -> None:
        for service, check in (("prometheus", "promtool check config"), ("alertmanager", "amtool check-config")):
            with tempfile.TemporaryDirectory() as folder:
                for source, target in self.mounts(service):
                    shutil.copy(source, Path(folder, Path(target).name))
                said = run(*check.split(), f"{folder}/{service}.yml")
                self.assertIn("SUCCESS", said)
            if service == "prometheus":
                self.assertIn("rules found", said)

    def test_grafana(self) -> None:
        mounts = {target: source for source, target in self.mounts("grafana")}
        files = {Path(target).parent.name: source for target, source in mounts.items() if source.is_file()}
        provisioned = {kind: containers.read_yaml(file) for kind, file in files.items()}
        [source] = provisioned["datasources"]["datasources"]
        host, _, port = source["url"].removeprefix("http://").partition(":")
        self.assertIn(f"127.0.0.1:{port}:{port}", COMPOSE["services"][host]["ports"])
        [provider] = provisioned["dashboards"]["providers"]
        for dashboard in mounts[provider["options"]["path"]].glob("*.json"):
            variables = json.loads(dashboard.read_text())["templating"]["list"]
            [wanted] = {variable["query"] for variable in variables if variable["type"] == "datasource"}
            self.assertEqual(wanted, source["type"])


class Documentation(Beside):
    """The commands of docs/install.md, word for word but for the folders of a real mail server."""

    def test_each_is_one_that_is_run(self) -> None:
        """`make image` by setUpModule."""
        self.assertEqual(COMMANDS, ["make image", BESIDE_CONTAINER, BESIDE_HOST, *LOOK])

    def follow(self, start: str, folders: dict[str, str]) -> list[str]:
        """Starts it, looks at it and stops it."""
        for folder, ours in folders.items():
            self.assertIn(folder, start)
            start = start.replace(folder, ours)
        run("sh", "-c", start)
        await_page()
        return [run("sh", "-c", command) for command in LOOK]

    def assert_right(self, said: list[str]) -> None:
        healthy, status, metrics, stopped = said
        self.assertEqual((healthy, stopped.strip()), ("", "exporter"))
        for text in (status, metrics):
            self.assertIn(SERVICE, text)
        self.assertIn(f'dovecot_service_processes{{service="{SERVICE}"}} 3\n', metrics)
        self.assertEqual(podman("inspect", "--format={{.State.ExitCode}}", "exporter").strip(), "0")

    def test_beside_a_container(self) -> None:
        self.clients.pre_auth(3)
        folders = {"/srv/dovecot/etc": f"{REPOSITORY}/examples/compose/dovecot", "/srv/dovecot/log": self.log_folder}
        self.assert_right(self.follow(BESIDE_CONTAINER, folders))

    def test_beside_the_host(self) -> None:
        dovecot = self.enterContext(Dovecot("2.3", instance_name=f"image-{os.getpid()}"))
        self.enterContext(Clients(dovecot)).pre_auth(3)
        # As Debian's rsyslog has it.
        os.chown(dovecot.log_path, 0, 4)
        dovecot.log_path.chmod(0o640)
        folders = {"=/etc/dovecot:": f"={dovecot.lab}:", "/var/log:/var/log:": f"{dovecot.lab}:{dovecot.lab}:"}
        self.assert_right(self.follow(BESIDE_HOST, folders))

    def test_local_time(self) -> None:
        """Of a log in another time zone; the flag is in a sentence."""
        flag = "--volume=/etc/localtime:/etc/localtime:ro"
        self.assertIn(flag, SECTION)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "dovecot.log")
            log.touch()
            Path(folder).chmod(0o755)
            zone = flag.replace("/etc/localtime:", "/usr/share/zoneinfo/Asia/Tokyo:", 1)
            podman_run("--detach", "--name=one", zone, f"--volume={folder}:/log:ro", IMAGE, "--dovecot.log-file=/log/dovecot.log")
            await_page()
            now = int(time.time())
            stamp = run("date", f"--date=@{now}", "+%b %d %T", env={"TZ": "Asia/Tokyo", "LC_ALL": "C"}).strip()
            log.write_text(f"{stamp} {WARNING}")
            wait_until(warnings_counted, PATIENCE, "the warning")
            told = by_service("dovecot_service_last_drop_warning_timestamp_seconds")
            # Where a line has no parts of a second, they may be those of its arrival.
            self.assertEqual({service: int(at) for service, at in told.items()}, {SERVICE: now})


if __name__ == "__main__":
    unittest.main()

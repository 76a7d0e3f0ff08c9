"""The manifests: by kustomize and strict schemas, their arguments beside a real Dovecot, their labels in a real Prometheus.

No cluster has seen them here.
"""

from __future__ import annotations

import copy
import datetime
import functools
import grp
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imap_clients import Clients
from lab import REPOSITORY, Dovecot, Exporter, Prometheus, exporter_path, session, trixie_root, wait_until

FOLDER = REPOSITORY / "kubernetes"
RULES = REPOSITORY / "alerts/dovecot.rules.yml"
REQUIREMENTS = REPOSITORY / "tests/kubernetes/requirements.txt"
SECTION = (REPOSITORY / "docs/install.md").read_text().partition("\n## Kubernetes\n")[2].partition("\n## ")[0]
COMMANDS = [line[4:] for line in re.sub("^```.*?^```", "", SECTION, flags=re.M | re.S).splitlines() if line.startswith("    ")]
OURS = "dovecot-capacity-exporter"
LOGIN = "imap-login"
PATIENCE = 30
Document = dict[str, Any]


@functools.cache
def tools() -> Path:
    """The folder with the programs of requirements.txt, installed when they are not yet those."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / OURS / "kubernetes"
    finished, wanted = folder / "requirements.txt", REQUIREMENTS.read_text()
    if not finished.exists() or finished.read_text() != wanted:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "--requirement", REQUIREMENTS], check=True)
        finished.write_text(wanted)
    return folder / "bin"


def kustomize(folder: Path) -> str:
    done = subprocess.run([tools() / "kubectl", "kustomize", folder], capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise RuntimeError(f"{folder}: {done.stderr}")
    return done.stdout


def check(manifests: str) -> tuple[list[Document], list[str]]:
    """The documents, and what is wrong with them."""
    command = [tools() / "python", REPOSITORY / "tests/kubernetes/validate.py"]
    found = json.loads(subprocess.run(command, input=manifests, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found["documents"], found["faults"]


@functools.cache
def built() -> tuple[dict[str, list[Document]], list[str]]:
    """Each folder's documents, all checked at once as that takes seconds, and the faults."""
    folders = [path.parent for path in FOLDER.glob("*/kustomization.yaml") if "kind: Component" not in path.read_text()]
    manifests = {folder.name: kustomize(folder) for folder in folders}
    with tempfile.TemporaryDirectory() as folder:
        example, own = documented(Path(folder))
        manifests |= {"documented": kustomize(example), "own": kustomize(own), "deployment": kustomize(deployment(Path(folder)))}
    documents, faults = check("\n---\n".join(manifests.values()))
    rest = iter(documents)
    counts = {name: len(re.findall("^apiVersion: ", text, re.M)) for name, text in manifests.items()}
    return {name: [next(rest) for _ in range(count)] for name, count in counts.items()}, faults


def deployment(beside: Path) -> Path:
    """The example as a Deployment, with both components."""
    folder = beside / "deployment"
    shutil.copytree(FOLDER, folder)
    example = folder / "example"
    text = (example / "statefulset.yaml").read_text().partition("  volumeClaimTemplates:")[0]
    text = text.replace("kind: StatefulSet", "kind: Deployment").replace("  serviceName: dovecot\n", "")
    (example / "statefulset.yaml").write_text(text)
    with (example / "kustomization.yaml").open("a") as file:
        file.write("components: [../sidecar, ../master-socket]\n")
    text = (example / "kustomization.yaml").read_text().replace("components:\n  - ../sidecar\n", "")
    (example / "kustomization.yaml").write_text(text)
    return example


def documented(beside: Path) -> tuple[Path, Path]:
    """What docs/install.md tells to do, as far as that needs no cluster: with the example, and with a Dovecot of one's own."""
    example, components = re.findall(r"^```yaml\n(.*?)^```", SECTION, re.M | re.S)
    (places,) = (command for command in COMMANDS if command.startswith("sed "))
    folders = beside / "documented", beside / "own"
    for folder in folders:
        for name in ("kubernetes", "dashboards"):
            shutil.copytree(REPOSITORY / name, folder / OURS / name)
        subprocess.run(places, shell=True, cwd=folder, check=True)
    (folders[0] / "kustomization.yaml").write_text(example)
    shutil.copy(FOLDER / "example/statefulset.yaml", folders[1] / "dovecot.yaml")
    own = example.replace(f"{OURS}/kubernetes/example", "dovecot.yaml") + components
    (folders[1] / "kustomization.yaml").write_text(own)
    return folders


def one(documents: list[Document], kind: str) -> Document:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def pod(documents: list[Document]) -> Document:
    """What the workload makes its pods of."""
    (found,) = (document["spec"]["template"] for document in documents if "template" in document.get("spec", {}))
    return found


def container(documents: list[Document], name: str = OURS) -> Document:
    (found,) = (one for one in pod(documents)["spec"]["containers"] if one["name"] == name)
    return found


WORKLOADS = ("example", "hosts", "node-pods", "deployment", "documented", "own")


class Manifests(unittest.TestCase):
    def test_valid(self):
        folders, faults = built()
        self.assertEqual(faults, [])
        self.assertGreaterEqual(set(folders), {*WORKLOADS, "monitoring"})

    def test_faults_are_found(self):
        """Each by the schema that is meant for it."""
        folders, _ = built()

        def broken(kind: str, change: Callable[[Document], object], folder: str = "node-pods") -> Document:
            document = copy.deepcopy(one(folders[folder], kind))
            change(document["spec"])
            return document

        def alert(spec: Document) -> Document:
            return next(rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule)

        documents = [
            broken("DaemonSet", lambda spec: spec["template"]["spec"].update(hostPid=True)),
            broken("DaemonSet", lambda spec: spec["template"]["spec"]["containers"][0].update(ports=[{"port": 1}])),
            broken("DaemonSet", lambda spec: spec.pop("selector")),
            broken("StatefulSet", lambda spec: spec.update(replicas="two"), "example"),
            broken("Service", lambda spec: spec["ports"][0].update(port="imap"), "example"),
            broken("PodMonitor", lambda spec: spec["podMetricsEndpoints"][0].update(intervall="15s")),
            broken("PodMonitor", lambda spec: spec["podMetricsEndpoints"][0].update(interval="15 seconds")),
            broken("PodMonitor", lambda spec: spec.pop("selector")),
            broken("PrometheusRule", lambda spec: alert(spec).update({"for": "5 minutes"}), "monitoring"),
            broken("PrometheusRule", lambda spec: alert(spec).update(severity="page"), "monitoring"),
        ]
        _, faults = check("\n---\n".join(map(json.dumps, documents)))
        for word in ("hostPid", "'containerPort'", "'selector'", "'two'", "'imap'", "intervall", "podMetricsEndpoints/0/interval:",
                     "/selector: Field required", "/for: ", "/severity: unknown"):  # fmt: skip
            self.assertEqual(len([fault for fault in faults if word in fault]), 1, f"{word}: {faults}")
        self.assertEqual(len(faults), len(documents))

    def test_generated_is_current(self):
        spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
        assert spec and spec.loader
        generate = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(generate)
        self.assertEqual(generate.MANIFEST.read_text(), generate.manifest(RULES.read_text()), "run make manifests")

    def test_rules(self):
        """As Prometheus reads them: it has the same groups from either, as the operator hands them on."""
        rule = one(built()[0]["monitoring"], "PrometheusRule")
        with tempfile.TemporaryDirectory() as folder:
            handed = Path(folder, "handed.yml")
            handed.write_text(json.dumps(rule["spec"]))
            promtool = subprocess.run(["promtool", "check", "rules", handed, RULES], capture_output=True, text=True)
            self.assertEqual(promtool.returncode, 0, promtool.stdout + promtool.stderr)
            found = re.findall(r"(\d+) rules found", promtool.stdout)
            self.assertEqual(found, [found[0]] * 2)
            self.assertEqual(groups(handed), groups(RULES))

    def test_dashboards(self):
        maps = [document for document in built()[0]["monitoring"] if document["kind"] == "ConfigMap"]
        self.assertEqual({name for one in maps for name in one["data"]},
                         {file.name for file in (REPOSITORY / "dashboards").glob("*.json")})  # fmt: skip
        for found in maps:
            self.assertEqual(found["metadata"]["labels"], {"grafana_dashboard": "1"})
            ((name, text),) = found["data"].items()
            self.assertEqual(text, (REPOSITORY / "dashboards" / name).read_text())
            # kubectl apply keeps what it applied in an annotation, and those may have 256 KiB.
            self.assertLess(len(json.dumps(found)), 256 * 1024)

    def test_privileges(self):
        """None, whatever runs in them."""
        for folder in WORKLOADS:
            spec = pod(built()[0][folder])["spec"]
            self.assertIs(spec["automountServiceAccountToken"], False)
            self.assertNotIn("hostNetwork", spec)
            for one in spec["containers"]:
                if one["name"] == "dovecot":
                    continue
                with self.subTest(folder, container=one["name"]):
                    security = dict(one["securityContext"])
                    self.assertGreater(security.pop("runAsUser"), 0)
                    self.assertGreater(security.pop("runAsGroup"), 0)
                    self.assertEqual(
                        security,
                        {
                            "runAsNonRoot": True,
                            "readOnlyRootFilesystem": True,
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                    )
                    self.assertLessEqual({"cpu", "memory"}, set(one["resources"]["requests"]))
                    self.assertIn("memory", one["resources"]["limits"])
            for mount in container(built()[0][folder])["volumeMounts"]:
                self.assertEqual(mount.get("readOnly", False), not mount["mountPath"].startswith("/var/lib/"))

    def test_deployment(self):
        """The components take it as well, and the socket's is the only one that shares /run."""
        for folder, shared in {"deployment": True, "example": False}.items():
            for name in ("dovecot", OURS):
                mounts = {mount["mountPath"] for mount in container(built()[0][folder], name)["volumeMounts"]}
                self.assertEqual("/run" in mounts, shared, folder)
        self.assertEqual(one(built()[0]["deployment"], "Deployment")["metadata"]["name"], "dovecot")

    def test_documented(self):
        self.assertEqual([command.split()[:2] for command in COMMANDS if not command.startswith("sed ")],
                         [["kubectl", verb] for verb in ("create", "create", "kustomize", "apply", "label")])
        documents = built()[0]["documented"]
        self.assertEqual({document["metadata"]["namespace"] for document in documents}, {"mail"})
        (version,) = re.findall('^version = "(.*)"$', (REPOSITORY / "Cargo.toml").read_text(), re.M)
        (ours,) = re.findall(r"^  - name: (\S+)$", SECTION, re.M)
        pushed = f"registry.example.org/{OURS}:{version}"
        for folder, image in {"documented": pushed, "hosts": f"{ours}:{version}", "example": f"{ours}:{version}"}.items():
            self.assertEqual(container(built()[0][folder])["image"], image, "as in Cargo.toml")
        for text in (f"`podman push localhost/{OURS} docker://{pushed}`", f"`{ours}:{version}`"):
            self.assertIn(text, " ".join(SECTION.split()))
        for kind in ("PodMonitor", "PrometheusRule"):
            self.assertEqual(one(documents, kind)["metadata"]["labels"]["release"], "kube-prometheus-stack")
        self.assertNotIn("example.org/runbook", json.dumps(documents))
        self.assertNotIn("grafana.example.org", json.dumps(documents))
        self.assertIn("https://YOUR-GRAFANA/d/", json.dumps(one(documents, "PrometheusRule")))
        self.assertEqual(container(built()[0]["own"]), container(documents))
        # The label of the last command is the one that the DaemonSets ask for.
        key, _, value = COMMANDS[-1].split()[-1].partition("=")
        for folder in ("hosts", "node-pods"):
            self.assertEqual(pod(built()[0][folder])["spec"]["nodeSelector"], {key: value})


    def test_images(self):
        """By their full names, which no engine has to guess; those of compose.yaml, as that is tried with stand-ins."""
        composed = re.findall(r"^    image: (\S+)$", (REPOSITORY / "compose.yaml").read_text(), re.M)
        for name in ("dovecot", "dovecot-log"):
            image = container(built()[0]["example"], name)["image"]
            self.assertTrue(image.startswith("docker.io/"), image)
            self.assertIn(image, composed)

    def test_secrets(self):
        """Those that are created as documented are those that the example mounts, with what its configuration reads."""
        made = {}
        with tempfile.TemporaryDirectory() as folder:
            # kubectl looks whether they belong together.
            pair = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=mail.example.org -keyout tls.key -out tls.crt"
            subprocess.run(["openssl", "req", "-x509", *pair.split()], cwd=folder, check=True, capture_output=True)
            Path(folder, "users").write_text("alice:{PLAIN}secret\n")
            for command in (command for command in COMMANDS if " create " in command):
                offline = [tools() / "kubectl", *shlex.split(command)[1:], "--dry-run=client", "--output=json"]
                secret = json.loads(subprocess.run(offline, cwd=folder, capture_output=True, check=True).stdout)
                self.assertEqual(secret["metadata"]["namespace"], "mail")
                made[secret["metadata"]["name"]] = set(secret["data"])
        volumes = pod(built()[0]["example"])["spec"]["volumes"]
        self.assertEqual(set(made), {volume["secret"]["secretName"] for volume in volumes if "secret" in volume})
        config = (FOLDER / "example/dovecot.conf").read_text()
        for name, keys in made.items():
            self.assertEqual(set(re.findall(rf"= /etc/{name}/(\S+)$", config, re.M)), keys)


def groups(rules: Path) -> list[Document]:
    """The groups in a file of rules, without what Prometheus learned since."""

    def settled(value: Any) -> Any:
        if isinstance(value, dict):
            learned = {"file", "lastEvaluation", "evaluationTime", "health", "lastError", "state", "alerts"}
            return {key: settled(one) for key, one in value.items() if key not in learned}
        return [settled(one) for one in value] if isinstance(value, list) else value

    with Prometheus([], rules=[rules]) as prometheus:
        return settled(prometheus.api("rules")["groups"])


# --- What they do --------------------------------------------------------------


def local(text: str, places: Mapping[str, Path]) -> str:
    """With the paths of a container replaced by where its volumes are here."""
    return re.sub("|".join(sorted(map(re.escape, places), reverse=True)), lambda match: str(places[match[0]]), text)


def without_privileges(uid: int, groups: list[int]) -> list[str]:
    """What makes the command behind it run as in a container that drops all capabilities."""
    return [
        *("setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={','.join(map(str, [uid, *groups]))}"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
        # Again: a change of uid clears what the lab has set.
        *("setpriv", "--pdeathsig", "TERM"),
    ]


def busybox_beside(dovecot: Dovecot) -> list[str]:
    """What makes the command behind it run with busybox, and see of all processes this Dovecot's only, as in its pod."""
    furnish = """
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/bin /mnt/proc
        busybox --install -s /mnt/bin
        for pid in $0; do
            mkdir "/mnt/proc/$pid"
            # It may have ended by now.
            mount --bind "/proc/$pid" "/mnt/proc/$pid" || [ ! -e "/proc/$pid" ]
        done
        mount --rbind /mnt/proc /proc
        PATH=/mnt/bin exec "$@"
    """
    return ["unshare", "--mount", "sh", "-ec", furnish, " ".join(map(str, session(dovecot.master_pid)))]


class Commands(unittest.TestCase):
    """Each container's arguments, as its user, with its volumes in the lab."""

    def dovecot(self, generation: str) -> Dovecot:
        """The one that its instance_name tells from the others of this machine."""
        name = f"kubernetes-{os.getpid()}-{self._testMethodName.replace('_', '-')}"
        return self.enterContext(Dovecot(generation, instance_name=name, services={LOGIN: {"process_limit": 2}}))

    def run_exporter(self, folder: str, places: dict[str, Path]) -> Exporter:
        one = container(built()[0][folder])
        mounts = {mount["mountPath"] for mount in one["volumeMounts"]}
        self.assertLessEqual(set(places), mounts)
        uid, groups = one["securityContext"]["runAsUser"], pod(built()[0][folder])["spec"]["securityContext"]
        # In the sidecar that is Dovecot's user: root in the lab.
        uid = 0 if uid == groups.get("runAsUser") else uid
        state = Path(self.enterContext(tempfile.TemporaryDirectory()))
        os.chown(state, uid, uid)
        places = places | {"/var/lib/dovecot-capacity-exporter": state}
        arguments = [local(argument, places) for argument in one["args"]]
        for argument, here in zip(one["args"], arguments, strict=True):
            self.assertNotEqual(argument, here, "a path that is in no volume")
        # The defaults, where the volumes are; the image has no doveconf.
        config = local("--dovecot.config=/etc/dovecot/dovecot.conf", places)
        exporter = Exporter(None, config, "--dovecot.doveconf=", *arguments)
        exporter.command[0] = shutil.copy(exporter_path(), places["/etc/dovecot"] / "exporter")  # all may pass through there
        exporter.command[:0] = without_privileges(uid, groups.get("supplementalGroups", []))
        self.enterContext(exporter)
        for probe in ("livenessProbe", "readinessProbe"):
            if probe in one:
                self.assertEqual(exporter.get(one[probe]["httpGet"]["path"])[0], 200)
                self.assertEqual(one[probe]["httpGet"]["port"], one["ports"][0]["name"])
        self.assertEqual(one["ports"], [{"name": "metrics", "containerPort": 9166}])
        wait_until(lambda: exporter.value("dovecot_exporter_source_up", source="limits") == 1, PATIENCE, "limits")
        self.assertEqual(exporter.value("dovecot_service_process_limit", service=LOGIN), 2)
        return exporter

    def dropped(self, exporter: Exporter) -> float | None:
        return exporter.value("dovecot_service_drop_warnings_total", service=LOGIN, limit="process_limit")

    def test_sidecar(self):
        dovecot = self.dovecot("2.4")
        places = {"/etc/dovecot": dovecot.lab, "/var/log/dovecot": dovecot.lab}
        exporter = self.run_exporter("example", places)
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="log"), 1)
        self.overload(dovecot, exporter)
        before = len(dovecot.warnings())
        # The container that prints and rotates the log; here it waits less.
        rotate = container(built()[0]["example"], "dovecot-log")
        script = rotate["args"][0]
        for text, replacement in {"sleep 10": "sleep 1", "50000000": str(dovecot.log_path.stat().st_size // 2)}.items():
            self.assertEqual(script.count(text), 1)
            script = script.replace(text, replacement)
        printed = dovecot.lab / "printed"
        with printed.open("wb") as output:
            # As the image of Dovecot starts it: by its path.
            self.assertTrue(Path(f"/proc/{dovecot.master_pid}/cmdline").read_text().startswith("/usr/sbin/dovecot\0"))
            command = [*busybox_beside(dovecot), *rotate["command"], script]
            folder = local(rotate["workingDir"], places)
            logger = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_until(lambda: (dovecot.lab / "dovecot.log.1").exists() and dovecot.log_path.exists(), PATIENCE, "rotated")
        finally:
            os.killpg(logger.pid, 15)
            logger.wait()
        self.assertGreaterEqual(printed.read_text().count("client connections are being dropped"), before)
        self.overload(dovecot, exporter)

    def overload(self, dovecot: Dovecot, exporter: Exporter) -> None:
        """Until the exporter has counted more than it had, and as many as Dovecot logged."""
        before = self.dropped(exporter) or 0

        def logged() -> int:
            rotated = dovecot.lab / "dovecot.log.1"
            old = rotated.read_text() if rotated.exists() else ""
            return len(dovecot.warnings()) + old.count("client connections are being dropped")

        with Clients(dovecot) as clients:
            clients.idle(2)
            self.assertEqual(exporter.value("dovecot_service_processes", service=LOGIN), 2)
            clients.knock(5, timeout=1)
            wait_until(lambda: (self.dropped(exporter) or 0) > before, PATIENCE, "a warning is counted")
        wait_until(lambda: self.dropped(exporter) == logged(), PATIENCE, "as many as in the log")

    def test_master_socket(self):
        dovecot = self.dovecot("2.4")
        exporter = self.run_exporter("deployment", {"/etc/dovecot": dovecot.lab, "/var/log/dovecot": dovecot.lab})
        # base_dir of the lab's Dovecot takes the place of /run/dovecot.
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="master"), 1)
        self.assertIn("base_dir = /run/dovecot\n", (FOLDER / "example/dovecot.conf").read_text())

    def test_pods_of_the_node(self):
        dovecot = self.dovecot("2.3")
        pods = Path(self.enterContext(tempfile.TemporaryDirectory()))
        pods.chmod(0o755)
        exporter = self.run_exporter("node-pods", {"/etc/dovecot": dovecot.lab, "/var/log/pods": pods})
        # As kubelet lays them out: of this pod, of one that came later, and of one that is not Dovecot's.
        for counted, (place, full) in enumerate([("mail_dovecot-0_1b2f/dovecot/0.log", 1), ("mail_dovecot-0_1b2f/dovecot/1.log", 1),
                                                 ("mail_web-0_77aa/nginx/0.log", 0), ("other_x_9c/dovecot/0.log", 1)]):  # fmt: skip
            file = pods / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(0o640)
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            file.write_text(
                f"{now} stderr F Nov 23 15:54:28 master: Warning: service({LOGIN}): process_limit (2) reached, "
                "client connections are being dropped\n"
            )
            if full:
                expected = counted + 1 - (counted > 2)
                wait_until(lambda: self.dropped(exporter) == expected, PATIENCE, f"{place} is read")
        self.assertEqual(self.dropped(exporter), 3)

    def test_hosts(self):
        """There the configuration says which log. It is one as Debian's rsyslog makes it."""
        dovecot = self.dovecot("2.3")
        os.chown(dovecot.log_path, 0, grp.getgrnam("adm").gr_gid)
        dovecot.log_path.chmod(0o640)
        exporter = self.run_exporter("hosts", {"/etc/dovecot": dovecot.lab, "/var/log": dovecot.lab})
        self.assertEqual(exporter.value("dovecot_exporter_source_up", source="log"), 1)
        self.overload(dovecot, exporter)

    def test_configuration_of_the_example(self):
        """Dovecot takes it, and to the exporter it says the same as to doveconf."""
        text = (FOLDER / "example/dovecot.conf").read_text()
        with tempfile.TemporaryDirectory(dir=trixie_root() / "tmp") as folder:
            config = Path(folder, "dovecot.conf")
            config.write_text(text)
            doveconf = ["chroot", trixie_root(), "doveconf", "-c", Path("/tmp", config.parent.name, config.name)]
            done = subprocess.run([*doveconf, "service/imap-login/process_limit", "log_path"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("500", done.stdout)
            with Exporter(None, f"--dovecot.config={config}", "--dovecot.doveconf=") as exporter:
                self.assertEqual(exporter.value("dovecot_service_process_limit_configured", service=LOGIN), 500)
                self.assertEqual(exporter.value("dovecot_exporter_source_up", source="limits"), 1)
        (log_path,) = re.findall(r"^log_path = (.*)$", text, re.M)
        self.assertIn(str(Path(log_path).parent), {mount["mountPath"] for mount in container(built()[0]["example"])["volumeMounts"]})
        ports = {port["containerPort"] for port in container(built()[0]["example"], "dovecot")["ports"]}
        self.assertEqual({int(port) for port in re.findall(r"port = (\d+)", text)}, ports)


# --- Labels --------------------------------------------------------------------


def scrape_job(folder: str, target: str) -> Document:
    """What the operator makes of the PodMonitor in namespace mail, with a pod of the workload as a fixed target.

    By generatePodMonitorConfig in its pkg/prometheus/promcfg.go: its own labels come first, then the PodMonitor's relabelings.
    """
    monitor, template = one(built()[0][folder], "PodMonitor"), pod(built()[0][folder])
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    meta = {
        "namespace": "mail",
        "pod_name": f"{folder}-x7k2p",
        "pod_node_name": "node-1",
        "pod_container_name": OURS,
        "pod_container_port_name": container(built()[0][folder])["ports"][0]["name"],
        **{f"pod_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value for key, value in template["metadata"]["labels"].items()},
    }

    def snake(relabeling: Document) -> Document:
        return {re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", key): value for key, value in relabeling.items()}

    def copied(source: str, label: str) -> Document:
        return {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}

    def kept(source: str, value: str) -> Document:
        return {"source_labels": [f"__meta_kubernetes_{source}"], "regex": value, "action": "keep"}

    return {
        "job_name": f"podMonitor/mail/{monitor['metadata']['name']}/0",
        "scrape_interval": "1s",
        "static_configs": [{"targets": [target], "labels": {f"__meta_kubernetes_{key}": value for key, value in meta.items()}}],
        "relabel_configs": [
            *(kept(f"pod_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}", value)
              for key, value in monitor["spec"]["selector"]["matchLabels"].items()),
            kept("pod_container_port_name", endpoint["port"]),
            copied("namespace", "namespace"),
            copied("pod_container_name", "container"),
            copied("pod_name", "pod"),
            {"target_label": "job", "replacement": f"mail/{monitor['metadata']['name']}"},
            {"target_label": "endpoint", "replacement": endpoint["port"]},
            *map(snake, endpoint["relabelings"]),
        ],
    }  # fmt: skip


class OperatedPrometheus(Prometheus):
    """With these jobs instead of its own."""

    def __init__(self, jobs: list[Document]) -> None:
        super().__init__([])
        config = json.loads(self.config.read_text())
        self.config.write_text(json.dumps(config | {"scrape_configs": jobs}))


class Labels(unittest.TestCase):
    def test_job_and_instance(self):
        """The alert that the exporter is gone knows the job; no label but those that last tells the pods of a node apart."""
        rules = one(built()[0]["monitoring"], "PrometheusRule")["spec"]["groups"]
        (down,) = (rule["expr"] for group in rules for rule in group["rules"] if rule.get("alert") == "DovecotExporterDown")
        common = {"namespace": "mail", "container": OURS, "endpoint": "metrics"}
        expected = [
            {**common, "job": "mail/dovecot", "instance": "example-x7k2p", "pod": "example-x7k2p"},
            {**common, "job": "mail/dovecot-capacity-exporter", "instance": "node-1"},
        ]
        with Exporter(None, "--dovecot.process-limit=imap-login=7") as exporter:
            jobs = [scrape_job("example", exporter.address), scrape_job("node-pods", exporter.address)]
            with OperatedPrometheus(jobs) as prometheus:
                limit = 'dovecot_service_process_limit{service="imap-login"} == 7'
                wait_until(lambda: len(prometheus.query(limit)) == 2, PATIENCE, "both are scraped")
                name = {"__name__": "dovecot_service_process_limit", "service": LOGIN}
                found = [labels for labels, _ in prometheus.query(limit)]
                self.assertCountEqual(found, [labels | name for labels in expected])
                self.assertEqual(prometheus.query(down), [])
                exporter.stop()
                wait_until(lambda: len(prometheus.query(down)) == 2, PATIENCE, "the alert's condition is true of both")
                found = [labels for labels, _ in prometheus.query(down)]
                self.assertCountEqual(found, [labels | {"__name__": "up"} for labels in expected])


if __name__ == "__main__":
    unittest.main()

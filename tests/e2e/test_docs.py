"""The README does what it says: its commands run, and Dovecot takes the settings it recommends."""

import re
import shlex
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from lab import Dovecot, Exporter, exporter_path, http_get, wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
LOGS = (ROOT / "docs/LOGS.md").read_text()
FENCES = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
BLOCKS = [text for language, text in FENCES if language == "conf"]
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
COMMANDS = [line[4:] for line in PROSE.splitlines() if line.startswith("    ") and "Warning:" not in line]
# In the order in which they are to be given.
RULES = [line for line in COMMANDS if line.endswith((".rules.yml", "alertmanager.yml"))]


class Numbers(unittest.TestCase):
    """Those that stand in several places."""

    cargo = (ROOT / "Cargo.toml").read_text()

    def in_cargo(self, key: str) -> str:
        return re.search(rf'^{key} = "(.*)"$', self.cargo, re.M)[1]

    def test_rust(self):
        for name in ("README.md", "docs/install.md"):
            found = re.findall(r"\bRust (\d+\.\d+) or later", (ROOT / name).read_text())
            self.assertEqual(found, [self.in_cargo("rust-version")], name)

    def test_version(self):
        """RELEASE.md names each file in which it is to be set."""
        version, name = self.in_cargo("version"), self.in_cargo("name")
        own = rf'^version = "{version}"|{name}:{version}|{name} = \{{.*version = "{version}"'
        grep = ["git", "grep", "--extended-regexp", "--name-only", own, "--", ":!*.lock"]
        files = subprocess.run(grep, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        self.assertIn("kubernetes/hosts/daemonset.yaml", files)
        step = (ROOT / "RELEASE.md").read_text().partition("\n1. ")[2].partition("\n2. ")[0]
        for file in files:
            self.assertIn(f"`{file}`", step)


class Commands(unittest.TestCase):
    def test_each_is_one_that_is_run(self):
        """`make test` is what runs this, and its parts run the rest; see the Makefile for what `build` does."""
        run_here = {
            "make demo",
            "target/release/dovecot-capacity-exporter",
            "target/release/dovecot-capacity-exporter status",
            "target/release/dovecot-capacity-exporter status imap-login --check",
            "target/release/dovecot-capacity-exporter advise",
            "curl -s http://localhost:9166/metrics | grep 'service=\"imap-login\"'",
            "doveadm reload",
            *RULES,
        }
        run_by_make = {"cargo build --release", "make test"}
        self.assertEqual(set(COMMANDS), run_here | run_by_make)

    def test_sources(self):
        """The flags of docs/LOGS.md are taken; what they do is test_sources' and test_state's."""
        commands = [line[4:] for line in LOGS.splitlines() if line.startswith("    ")]
        self.assertEqual(len(commands), 4)
        for command in commands:
            with self.subTest(command), tempfile.TemporaryDirectory() as folder:
                flags = shlex.split(command.partition("dovecot-capacity-exporter ")[2])
                server = subprocess.Popen(
                    [exporter_path(), *flags, "--web.listen-address=127.0.0.1:0"],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                try:
                    lines = []
                    wait_until(lambda: lines.append(server.stderr.readline()) or "listening" in lines[-1], 20, command)
                    name = flags[0].partition("=")[2] or "journal:dovecot"
                    self.assertIn(f"message=following log={name}", "".join(lines).replace('"', ""))
                finally:
                    server.terminate()
                    server.communicate()

    def test_demo(self):
        demo = subprocess.run(["make", "-C", ROOT, "demo"], capture_output=True, text=True, timeout=300)
        self.assertEqual(demo.returncode, 0, demo.stdout + demo.stderr)
        self.assertIn("Every act showed what it should", demo.stdout)

    def test_bench(self):
        """With small numbers: that it measures everything, not what comes out."""
        bench = ["python3", ROOT / "bench/bench.py", "--quick"]
        done = subprocess.run(bench, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_run_as_it_stands_and_ask_it(self):
        """With the defaults, so on the port of the README; that must be free on this machine."""
        with tempfile.TemporaryDirectory() as folder:
            server = subprocess.Popen([exporter_path()], cwd=folder, stderr=subprocess.PIPE, text=True)
            try:
                wait_until(lambda: "listening" in server.stderr.readline(), 20, "the exporter listens")
                curl = next(command for command in COMMANDS if command.startswith("curl"))
                page = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True).stdout
                self.assertIn('dovecot_service_process_limit{service="imap-login"}', page)
                self.assertEqual(http_get("127.0.0.1:9166", "/")[0], 200)
            finally:
                server.terminate()
                server.communicate()

    def test_look(self):
        """At a Dovecot of ours, as the machine's own may not run; the table has every flag of its own."""
        status, check = (shlex.split(command)[1:] for command in COMMANDS if " status" in command)
        usage = subprocess.run([exporter_path(), *status, "--help"], capture_output=True, text=True, check=True).stdout
        table = README.partition("## Look")[2].partition("\n## ")[0]
        flags = {flag for flag in re.findall(r"--[a-z.-]+", usage) if "." not in flag} - {"--help"}
        self.assertEqual(flags - {"--state.file"}, set(re.findall(r"`(--[a-z-]+)[=`]", table)))
        # By a name that no other Dovecot on the machine has.
        with Dovecot("2.3", instance_name="docs-lab") as dovecot:
            here = [f"--dovecot.config={dovecot.config}", f"--dovecot.log-file={dovecot.log_path}"]
            for arguments, words in ((status, "Nothing is wrong."), (check, "DOVECOT OK - ")):
                found = subprocess.run([exporter_path(), *arguments, *here], capture_output=True, text=True)
                self.assertEqual((found.returncode, found.stderr), (0, ""))
                self.assertTrue(found.stdout.startswith(words), found.stdout)

    def test_advise(self):
        """Likewise, where there is something to advise."""
        (advise,) = (shlex.split(command)[1:] for command in COMMANDS if command.endswith(" advise"))
        usage = subprocess.run([exporter_path(), *advise, "--help"], capture_output=True, text=True, check=True).stdout
        table = README.partition("## What should I set?")[2].partition("\n## ")[0]
        flags = {flag for flag in re.findall(r"--[a-z.-]+", usage) if "." not in flag} - {"--help"}
        self.assertEqual(flags, set(re.findall(r"^\| `(--[a-z-]+)[=`]", table, re.M)))
        with Dovecot("2.3", services={"imap-login": {"process_limit": 1}}, instance_name="docs-lab") as dovecot:
            here = [f"--dovecot.config={dovecot.config}", f"--dovecot.log-file={dovecot.log_path}"]
            before = dovecot.config.read_bytes()
            found = subprocess.run([exporter_path(), *advise, *here], capture_output=True, text=True)
            self.assertEqual((found.returncode, found.stderr), (0, ""))
            for words in ("Recommended: ", "Option 1: ", "Option 2: ", "service imap-login {"):
                self.assertIn(words, found.stdout)
            self.assertEqual(dovecot.config.read_bytes(), before)

    def test_scrape_configuration(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(next(text for language, text in FENCES if language == "yaml"))
            file.flush()
            check = subprocess.run(["promtool", "check", "config", file.name], capture_output=True, text=True)
            self.assertEqual(check.returncode, 0, check.stderr)

    def test_rules_and_routes(self):
        """As they are installed: copied, pointed to the user's own places, and checked."""
        scrape, rule_files = (text for language, text in FENCES if language == "yaml")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("dovecot.rules.yml", "alertmanager.yml"):
                shutil.copy(ROOT / "alerts" / name, folder)
            Path(folder, "prometheus.yml").write_text(scrape + rule_files)
            for command in [*RULES, "promtool check config prometheus.yml"]:
                done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}{done.stderr}")
            self.assertIn("rules found", done.stdout)
            rules = Path(folder, "dovecot.rules.yml").read_text()
            self.assertNotIn("example.org", rules)
            alerts = len(set(re.findall(r"- alert: (\w+)", rules)))
            for place in ("YOUR-WIKI/runbook.md#", "YOUR-GRAFANA/d/"):
                self.assertGreaterEqual(rules.count(f": https://{place}"), alerts)

    def test_flags(self):
        """The table has every flag that --help has, with the same default."""
        usage = subprocess.run([exporter_path(), "--help"], capture_output=True, text=True, check=True).stdout
        flags = set(re.findall(r"--[a-z]+\.[a-z-]+", usage))
        table = "\n".join(line for line in README.splitlines() if line.startswith("| `--"))
        self.assertEqual(set(re.findall(r"--[a-z]+\.[a-z-]+", table)), flags)
        for default in re.findall(r"\[default: ([^\]\s,']+)\]", usage):
            self.assertIn(f"`{default}`", table)


class Remedies(unittest.TestCase):
    def settings(self, *, generation: str) -> tuple[str, str]:
        more, older, newer = BLOCKS
        return more, {"2.3": older, "2.4": newer}[generation]

    def test_dovecot_takes_them(self):
        for generation in ("2.3", "2.4"):
            more, shared = self.settings(generation=generation)
            for block, field, value in ((more, "process_limit", 500), (shared, "process_count", 1)):
                with self.subTest(generation, block=block), Dovecot(generation) as dovecot, Exporter(dovecot) as exporter:
                    dovecot.write_config(settings=block)
                    # What the README says to do.
                    dovecot.reload()
                    status = wait_until(
                        lambda: (now := dovecot.service_status("imap-login"))[field] == value and now, 20, block
                    )
                    for name in ("process_limit", "client_limit"):
                        wait_until(
                            lambda: exporter.value(f"dovecot_service_{name}", service="imap-login") == status[name],
                            20,
                            f"{name} is {status[name]}",
                        )


if __name__ == "__main__":
    unittest.main()

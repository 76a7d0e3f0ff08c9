"""The lab itself: does Dovecot, of either generation, do what the other tests build on?"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from unittest import mock

import lab
from imap_clients import Clients, Outcome
from lab import Dovecot, Exporter, Prometheus, parse_metrics, session, wait_until

SERVICE = "imap-login"


class DovecotLab:
    """The same tests for both generations."""

    generation: str

    def run_dovecot(self: unittest.TestCase, process_limit: int = 5, **options: object) -> Dovecot:
        services = {SERVICE: {"process_limit": process_limit}}
        dovecot = Dovecot(self.generation, **{"services": services, **options})
        return self.enterContext(dovecot)

    def clients(self: unittest.TestCase, dovecot: Dovecot, **options: int) -> Clients:
        return self.enterContext(Clients(dovecot, **options))

    def wait_for_processes(self, dovecot: Dovecot, count: int) -> None:
        # The master may be a moment behind /proc: it has to reap its children.
        wait_until(
            lambda: len(dovecot.processes(SERVICE))
            == dovecot.service_status(SERVICE)["process_count"]
            == count,
            10,
            f"{count} imap-login processes",
        )

    def test_is_of_the_generation_it_says(self) -> None:
        dovecot = self.run_dovecot()
        # doveconf heads its listing with the version.
        listing = subprocess.check_output([dovecot.doveconf, "-n", "-c", dovecot.config], text=True)
        self.assertRegex(listing, rf"^# {re.escape(self.generation)}\.")

    def test_tls_idle_clients_fill_the_service(self) -> None:
        for verbose in (False, True):
            with self.subTest(verbose_proctitle=verbose):
                dovecot = self.run_dovecot(verbose_proctitle=verbose)
                self.assertEqual(dovecot.processes(SERVICE), [])
                clients = self.clients(dovecot)
                clients.idle(5)
                status = dovecot.service_status(SERVICE)
                self.assertEqual(
                    (status["process_count"], status["process_limit"], status["client_limit"]), (5, 5, 1)
                )
                self.assertEqual(len(dovecot.processes(SERVICE)), 5)
                self.assertEqual(len(dovecot.processes("imap")), 5)
                # Full alone is no reason to warn: nobody waits yet.
                self.assertEqual(dovecot.warnings(), [])
                clients.close()
                self.wait_for_processes(dovecot, 0)

    def test_who_keeps_an_imap_login_process(self) -> None:
        dovecot = self.run_dovecot(process_limit=20)
        # One at a time, so that processes are not counted between login and handover.
        clients = self.clients(dovecot, at_once=1)
        clients.logged_in(3)
        clients.idle(3, tls=False)
        self.wait_for_processes(dovecot, 0)
        self.assertEqual(len(dovecot.processes("imap")), 6)
        clients.pre_auth(2)
        clients.pre_auth(2, tls=True)
        clients.logged_in(2, tls=True)
        self.assertEqual(len(dovecot.processes(SERVICE)), 6)
        self.assertEqual(len(dovecot.processes("imap")), 8)

    def test_clients_notice_that_they_are_dropped(self) -> None:
        dovecot = self.run_dovecot()
        [client] = self.clients(dovecot).idle(1)
        self.assertFalse(client.closed_by_server(0.2))
        dovecot.stop()
        self.assertTrue(client.closed_by_server(5))

    def test_knocking_at_a_full_service_is_warned_of(self) -> None:
        dovecot = self.run_dovecot()
        clients = self.clients(dovecot)
        self.assertEqual(clients.knock(2, timeout=5), {Outcome.GREETED: 2})
        self.wait_for_processes(dovecot, 0)
        clients.idle(5)
        outcomes = clients.knock(3, timeout=5, until=lambda: dovecot.warnings(SERVICE))
        self.assertEqual(outcomes[Outcome.GREETED], 0)
        self.assertIn(f"service({SERVICE}): process_limit (5) reached", dovecot.warnings(SERVICE)[0])
        self.assertEqual(dovecot.warnings("pop3-login"), [])
        self.assertGreater(dovecot.service_status(SERVICE)["last_drop_warning"], 0)

    def test_a_client_cannot_forge_a_warning(self) -> None:
        dovecot = self.run_dovecot(auth_verbose=True, auth_debug=True)
        [client] = self.clients(dovecot).pre_auth(1)
        text = "master: Warning: service(imap-login): process_limit (9) reached, client connections are being dropped"
        with self.assertRaises(client.connection.error):
            client.connection.login(f'"{text}"', "x")
        wait_until(lambda: f"{text}\n" in dovecot.log_text(), 5, "the text in the log")
        self.assertEqual(dovecot.warnings(), [])

    def test_reload_brings_the_new_limit(self) -> None:
        dovecot = self.run_dovecot()
        master = dovecot.master_pid
        dovecot.write_config(services={SERVICE: {"process_limit": 8}})
        self.assertEqual(dovecot.service_status(SERVICE)["process_limit"], 5)
        dovecot.reload()
        self.assertEqual(dovecot.service_status(SERVICE)["process_limit"], 8)
        self.assertEqual(dovecot.master_pid, master)

    def test_performance_mode_is_full_at_client_limit(self) -> None:
        settings = {**lab.PERFORMANCE_MODE, "process_limit": 1, "client_limit": 10}
        dovecot = self.run_dovecot(services={SERVICE: settings})
        self.wait_for_processes(dovecot, 1)
        clients = self.clients(dovecot)
        clients.idle(10)
        status = dovecot.service_status(SERVICE)
        self.assertEqual(
            (status["process_count"], status["process_limit"], status["client_limit"]), (1, 1, 10)
        )
        clients.knock(3, timeout=5, until=lambda: dovecot.warnings(SERVICE))
        self.assertIn("client_limit (10) reached", dovecot.warnings(SERVICE)[0])

    def test_other_protocols_have_listeners(self) -> None:
        protocols = ("imap", "pop3", "submission", "sieve", "lmtp")
        dovecot = self.run_dovecot(protocols=protocols)
        for listener in ("imap", "pop3", "submission", "sieve", "lmtp"):
            with self.subTest(listener):
                with lab.socket.create_connection(("127.0.0.1", dovecot.ports[listener]), 5) as client:
                    self.assertIn(b"ready", client.recv(4096))

    def test_instance_name(self) -> None:
        dovecot = self.run_dovecot(instance_name="lab2")
        self.clients(dovecot).pre_auth(1)
        [pid] = dovecot.processes(SERVICE)
        self.assertEqual(Path(f"/proc/{pid}/cmdline").read_bytes(), b"dovecot-lab2/imap-login\0")

    def test_login_storm(self) -> None:
        dovecot = self.run_dovecot(process_limit=20)
        result = self.clients(dovecot).login_storm(seconds=0.5, workers=2)
        self.assertGreater(result.succeeded, 10)
        self.assertEqual(result.failed, 0)

    def test_stop_leaves_nothing(self) -> None:
        # With shutdown_clients=no the processes of logged-in clients outlive their master.
        for settings in ("", "shutdown_clients = no\n"):
            with self.subTest(settings):
                dovecot = self.run_dovecot(settings=settings)
                master = dovecot.master_pid
                self.clients(dovecot).idle(2)
                self.assertGreater(len(session(master)), 4)
                dovecot.stop()
                self.assertEqual(session(master), [])
                self.assertFalse((dovecot.base_dir / "master.pid").exists())
                # It may be started again, ...
                dovecot.start()
                dovecot.close()
                # ... and after all that nothing is left of it.
                self.assertFalse(os.path.lexists(dovecot.lab))
                self.assertFalse(os.path.lexists(lab.trixie_root() / "tmp" / dovecot.lab.name))

    def test_a_crashed_master_is_cleaned_up(self) -> None:
        dovecot = self.run_dovecot()
        master = dovecot.master_pid
        self.clients(dovecot).idle(2)
        os.kill(master, signal.SIGKILL)
        dovecot.stop()
        self.assertEqual(session(master), [])
        dovecot.start()

    def test_a_killed_test_run_leaves_no_process(self) -> None:
        script = """
            import os, signal, lab
            dovecot = lab.Dovecot("%s")
            dovecot.start()
            print(dovecot.lab, dovecot.master_pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        directory = Path(__file__).parent
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script % self.generation)],
            cwd=directory,
            capture_output=True,
            text=True,
        )
        path, master = run.stdout.split()
        wait_until(lambda: not session(int(master)), 10, "Dovecot to end with its test")
        # Files are what only a living run can remove.
        shutil.rmtree(Path(path).resolve())
        if os.path.islink(path):
            os.unlink(path)


class Dovecot23(DovecotLab, unittest.TestCase):
    generation = "2.3"


class Dovecot24(DovecotLab, unittest.TestCase):
    generation = "2.4"


class Parser(unittest.TestCase):
    def test_reads_labels_and_numbers(self) -> None:
        text = (
            "# HELP a_total Words.\n# TYPE a_total counter\n"
            'a_total{x="q\\"\\\\n\\n",y=""} 1e3\na_total 2 1700000000000\n'
            "# TYPE g gauge\ng +Inf\n"
            '# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 0.5\nh_count 1\n'
        )
        series = parse_metrics(text)
        self.assertEqual(series["a_total", frozenset({("x", 'q"\\n\n'), ("y", "")})], 1000)
        self.assertEqual(series["a_total", frozenset()], 2)
        self.assertEqual(series["g", frozenset()], float("inf"))
        self.assertEqual(len(series), 6)

    def test_takes_nothing_else(self) -> None:
        head = "# TYPE a gauge\n"
        for text in (
            "",
            head + "a 1",
            "a 1\n",
            head + "a 1\na 1\n",
            head + "b 1\n",
            head + "a_total 1\n",
            head + "a one\n",
            head + "a 1_0\n",
            head + "a  1\n",
            head + "\na 1\n",
            head + 'a{x=1} 1\n',
            head + 'a{x="1",x="2"} 1\n',
            head + 'a{x="1"y="2"} 1\n',
            head + 'a{x="\\t"} 1\n',
            head + head + "a 1\n",
            head + "# TYPE b gauge\nb 1\na 1\n",
            head + "a 1\n# HELP a Words.\n",
            "# TYPE a info\na 1\n",
            head + "a 1\n# EOF\n",
        ):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_metrics(text)


# Says what a real exporter says, as far as the lab depends on it.
STAND_IN = """\
#!/usr/bin/env python3
import http.server, signal, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(b'# TYPE arguments gauge\\narguments{a="1"} %d\\n' % len(sys.argv))
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("ts=1 level=info msg=starting version=0", file=sys.stderr)
print(f'ts=2 level=info msg=%s address=127.0.0.1:{server.server_port}', file=sys.stderr, flush=True)
server.serve_forever()
"""


class Others(unittest.TestCase):
    def stand_in(self, message: str = "listening") -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        program = directory / "exporter"
        program.write_text(STAND_IN.replace("msg=%s", f"msg={message}"))
        program.chmod(0o755)
        self.enterContext(mock.patch.dict(os.environ, EXPORTER=str(program)))

    def test_exporter_and_prometheus(self) -> None:
        for message in ("listening", '"listening"'):
            self.stand_in(message)
            exporter = self.enterContext(Exporter(None, "--log.level=debug"))
            self.assertIn(["msg=starting"], [line.split()[2:3] for line in exporter.stderr])
        # The program's name, the port and the flag above.
        self.assertEqual(exporter.value("arguments", a="1"), 3)
        self.assertIsNone(exporter.value("arguments"))

        prometheus = self.enterContext(Prometheus([exporter.address]))
        wait_until(lambda: prometheus.query("arguments"), 20, "a scrape")
        [(labels, value)] = prometheus.query("arguments")
        self.assertEqual((labels["a"], labels["job"], value), ("1", "dovecot", 3))
        self.assertEqual(prometheus.targets()[exporter.address]["health"], "up")

        pid = exporter.pid
        code, seconds = exporter.stop()
        self.assertEqual(code, 3)
        self.assertLess(seconds, 5)
        self.assertEqual(session(pid), [])
        exporter.start()
        self.assertEqual(exporter.value("arguments", a="1"), 3)

    def test_exporter_is_told_of_its_dovecot(self) -> None:
        self.stand_in()
        dovecot = self.enterContext(Dovecot("2.3"))
        exporter = Exporter(dovecot, "--dovecot.log-file=/x", "--dovecot.log-file=/y")
        self.assertEqual(
            exporter.command[1:],
            [
                "--web.listen-address=127.0.0.1:0",
                f"--dovecot.config={dovecot.config}",
                "--dovecot.doveconf=/usr/bin/doveconf",
                "--dovecot.log-file=/x",
                "--dovecot.log-file=/y",
            ],
        )

    def test_an_exporter_that_ends_is_an_error(self) -> None:
        self.enterContext(mock.patch.dict(os.environ, EXPORTER="/bin/false"))
        with self.assertRaisesRegex(RuntimeError, "ended with 1"):
            Exporter(None).__enter__()

    def test_a_dovecot_that_ends_is_an_error(self) -> None:
        for generation in ("2.3", "2.4"):
            with self.subTest(generation), self.assertRaisesRegex(RuntimeError, "nonsense"):
                Dovecot(generation, settings="nonsense = 1").__enter__()

    def test_waiting_in_vain_is_an_error(self) -> None:
        with self.assertRaisesRegex(TimeoutError, "a miracle"):
            wait_until(lambda: False, 0.05, "a miracle")


if __name__ == "__main__":
    unittest.main()

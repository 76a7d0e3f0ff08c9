"""Prometheus' own judgement of the page: promtool, and a server that scrapes either format."""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
import unittest

from imap_clients import Clients
from lab import REPOSITORY, Dovecot, Exporter, Prometheus, http_get, wait_until

SERVICE = "imap-login"
COUNTER = f'dovecot_service_drop_warnings_total{{service="{SERVICE}",limit="process_limit"}}'
PATIENCE = 60
CLASSIC = "text/plain;version=0.0.4"


class ClassicOnly(http.server.ThreadingHTTPServer):
    """Hands on requests to `target`, asking for the text format 0.0.4 whatever the client would like."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.target = target
        self.content_types: set[str] = set()
        super().__init__(("127.0.0.1", 0), HandOn)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class HandOn(http.server.BaseHTTPRequestHandler):
    server: ClassicOnly

    def do_GET(self) -> None:
        status, content_type, body = http_get(self.server.target, self.path, {"Accept": CLASSIC})
        self.server.content_types.add(content_type)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


class Promtool:
    """Judges pages."""

    def assert_clean(self: unittest.TestCase, page: str) -> None:
        check = subprocess.run(
            ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=PATIENCE
        )
        self.assertEqual((check.returncode, check.stderr, check.stdout), (0, "", ""))


class PrometheusLab(Promtool):
    """The same for both generations."""

    generation: str

    def test_both_formats(self: unittest.TestCase) -> None:
        dovecot = self.enterContext(Dovecot(self.generation, services={SERVICE: {"process_limit": 5}}))
        exporter = self.enterContext(Exporter(dovecot))
        proxy = self.enterContext(ClassicOnly(exporter.address))
        # Two servers, so that nothing of one format is taken for the other's.
        modern = self.enterContext(Prometheus([exporter.address]))
        classic = self.enterContext(Prometheus([proxy.address]))
        servers = {"OpenMetrics": modern, "0.0.4": classic}
        for name, server in servers.items():
            wait_until(lambda: server.query(COUNTER), PATIENCE, f"a scrape of {name}")
            # It exists, at 0, before anything happened: else increase() would miss the first.
            self.assertEqual(server.query(COUNTER)[0][1], 0)

        clients = self.enterContext(Clients(dovecot))
        clients.idle(5)
        clients.knock(5, timeout=PATIENCE, until=lambda: dovecot.warnings(SERVICE))
        clients.close()
        for name, server in servers.items():
            with self.subTest(name):
                rising = f"increase({COUNTER}[1m])"
                wait_until(
                    lambda: [value for _, value in server.query(rising) if value > 0],
                    PATIENCE,
                    "the rise of the counter",
                )
                logged = len(dovecot.warnings(SERVICE))
                wait_until(
                    lambda: server.query(COUNTER)[0][1] == len(dovecot.warnings(SERVICE)),
                    PATIENCE,
                    "the scraped value to be the log's count",
                )
                self.assertGreater(logged, 0)
                # Never down: neither now, nor since the first scrape.
                self.assertEqual([value for _, value in server.query("up")], [1])
                self.assertEqual([value for _, value in server.query("min_over_time(up[10m])")], [1])
                self.assertEqual([target["lastError"] for target in server.targets().values()], [""])
        # The same series on either side, ...
        names = "count by (__name__) ({__name__=~\"dovecot_.*|process_.*\"})"
        counts = [
            {labels["__name__"]: value for labels, value in server.query(names)} for server in servers.values()
        ]
        self.assertEqual(*counts)
        self.assertGreater(len(counts[0]), 20)
        self.assertEqual(modern.query(COUNTER)[0][1], classic.query(COUNTER)[0][1])
        # ... and it was one format here and the other there: only OpenMetrics has units.
        units = [
            {item["metric"]: item["unit"] for item in server.api("targets/metadata")}
            for server in servers.values()
        ]
        self.assertEqual(units[0]["process_resident_memory_bytes"], "bytes")
        self.assertEqual(set(units[1].values()), {""})
        self.assertEqual([kind.split(";")[0] for kind in proxy.content_types], ["text/plain"])

    def test_promtool(self: unittest.TestCase) -> None:
        dovecot = self.enterContext(Dovecot(self.generation, services={SERVICE: {"process_limit": 5}}))
        exporter = self.enterContext(Exporter(dovecot))
        self.assert_clean(exporter.get("/metrics", Accept=CLASSIC)[2])
        clients = self.enterContext(Clients(dovecot))
        clients.idle(5)
        clients.knock(5, timeout=PATIENCE, until=lambda: dovecot.warnings(SERVICE))
        last = "dovecot_service_last_drop_warning_timestamp_seconds"
        wait_until(lambda: exporter.value(last, service=SERVICE), PATIENCE, "the warning on the page")
        page = exporter.get("/metrics", Accept=CLASSIC)[2]
        self.assertIn(f"\n{last}", page)
        self.assert_clean(page)
        # Without its sources the page is another one.
        dovecot.stop()
        self.assert_clean(exporter.get("/metrics", Accept=CLASSIC)[2])


class Prometheus23(PrometheusLab, unittest.TestCase):
    generation = "2.3"


class Prometheus24(PrometheusLab, unittest.TestCase):
    generation = "2.4"


class GoldenPages(Promtool, unittest.TestCase):
    def test_promtool_on_the_golden_pages(self) -> None:
        pages = sorted((REPOSITORY / "tests/golden").glob("*.prom"))
        self.assertGreater(len(pages), 0)
        for page in pages:
            with self.subTest(page.name):
                # Dots stand for what differs from run to run.
                self.assert_clean(re.sub(r" \.\.\.$", " 1", page.read_text(), flags=re.MULTILINE))

    def test_promtool_finds_fault(self) -> None:
        # Or else the tests above would not tell much.
        with self.assertRaises(AssertionError):
            self.assert_clean("# TYPE requests counter\nrequests 1\n")


if __name__ == "__main__":
    unittest.main()

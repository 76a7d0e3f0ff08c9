"""A real Prometheus that holds what record.py has recorded.

    with RecordedPrometheus("incident") as prometheus:
        prometheus.query_at("up", prometheus.end)

It holds what the recording rules of alerts/dovecot.rules.yml record as well, as if they had been loaded at the time: a second
after each scrape. The recording keeps the times at which it was made: nothing is shifted, so that timestamps that are values
agree with those of the samples. Ask with `time`, or `start` and `end`, between `.start_time` and `.end_time` (seconds since 1970). A browser may ask
as well (CORS).

    python3 tests/dashboards/recording.py incident    serves one until Ctrl-C, and prints address, start and end
"""

from __future__ import annotations

import lzma
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from lab import REPOSITORY, Prometheus

RECORDINGS = Path(__file__).resolve().parent
RULES = REPOSITORY / "alerts/dovecot.rules.yml"
INTERVAL = 5  # seconds between two samples
EVALUATION = 1  # seconds between two evaluations of rules in a lab's Prometheus, where the group does not say


def read_recording(name: str) -> str:
    """The OpenMetrics text."""
    return lzma.decompress((RECORDINGS / f"{name}.om.xz").read_bytes()).decode()


class RecordedPrometheus(Prometheus):
    """Serves a recording, "incident" or "calm", and scrapes nothing."""

    def __init__(self, name: str) -> None:
        super().__init__([], rules=[RULES])
        self._text = read_recording(name)
        times = [int(line.rpartition(" ")[2]) for line in self._text.splitlines() if line.startswith("up{")]
        self.start_time, self.end_time = min(times), max(times)

    def start(self) -> None:
        self._store(self._text)
        super().start()
        self._store("".join([*self._recorded(), "# EOF\n"]))
        # It sees new blocks once a minute, or when it starts.
        self.stop()
        super().start()

    def _store(self, text: str) -> None:
        page = self._directory / "recording.om"
        page.write_text(text)
        promtool = ["promtool", "tsdb", "create-blocks-from", "openmetrics", page, self._directory / "data"]
        subprocess.run(promtool, check=True, capture_output=True)

    def _recorded(self) -> Iterator[str]:
        """What the rules that are evaluated at each interval make of the recording, as OpenMetrics.

        promtool's own way takes a Prometheus started anew for each rule that uses another: here those are put in its place.
        """
        expressions: dict[str, str] = {}
        for group in self.api("rules")["groups"]:
            for rule in group["rules"]:
                if rule["type"] == "recording" and group["interval"] == EVALUATION:
                    expressions[rule["name"]] = rule["query"]
        for name, expression in expressions.items():
            while used := re.search(r"\w+:[\w:]+", expression):
                expression = expression.replace(used[0], f"({expressions[used[0]]})")
            # Only what was scraped just before, or what has gone would be seen for twice as long.
            ends = {"start": str(self.start_time + 1), "end": str(self.end_time + 1), "step": str(INTERVAL)}
            yield f"# TYPE {name} gauge\n"
            for series in self.api("query_range", query=expression, lookback_delta="3s", **ends)["result"]:
                labels = ",".join(f'{label}="{value}"' for label, value in series["metric"].items() if label != "__name__")
                yield from (f"{name}{{{labels}}} {value} {time}\n" for time, value in series["values"])

    def _spawn(self, command: Any, **options: Any) -> subprocess.Popen[bytes]:
        # Blocks made from text know no staleness: a series that ended would be seen for five minutes more.
        flags = [f"--query.lookback-delta={2 * INTERVAL + 1}s", "--web.cors.origin=.*"]
        return super()._spawn([*command, *flags], **options)

    def query_at(self, expression: str, time: float) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an instant query."""
        data = self.api("query", query=expression, time=str(time))
        return [(result["metric"], float(result["value"][1])) for result in data["result"]]

    def query_range(self, expression: str, start: float, end: float, step: int = INTERVAL) -> list[dict[str, Any]]:
        """The series of a range query as the API has them: `metric` and `values`."""
        return self.api("query_range", query=expression, start=str(start), end=str(end), step=str(step))["result"]


def main() -> None:
    with RecordedPrometheus(sys.argv[1]) as prometheus:
        print(f"http://{prometheus.address} {prometheus.start_time} {prometheus.end_time}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()

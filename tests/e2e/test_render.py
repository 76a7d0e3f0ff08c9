"""The dashboards as they are seen, drawn in Chromium with Grafana's published components, against Prometheus' answers.

What of the drawing is Grafana's and what is ours: tests/render/render. UPDATE_PICTURES=1 keeps the pictures in
docs/pictures.
"""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/dashboards"))
from recording import INTERVAL, RecordedPrometheus

RENDER = ROOT / "tests/render/render"
PICTURES = ROOT / "docs/pictures"
DASHBOARDS = {name: ROOT / f"dashboards/dovecot-capacity-{name}.json" for name in ("fleet", "host")}
HOST = "mail1.example.org:9166"
# When the pictures are taken: of the incident while it can be seen whole, and the exporter of one host is down.
MOMENT = {"incident": 816}
THEMES = ("light", "dark")
CHOSEN = {"fleet": [], "host": [f"instance={HOST}"]}
# Panels that have nothing to tell in that scenario. One that has is an error as well.
EMPTY = {("fleet", "calm"): ["Which hosts are not fully seen?"]}


def render(dashboard, prometheus, end, theme="light", out=None, chosen=(), empty=()):
    flags = {
        "prometheus": f"http://{prometheus.address}",
        "from": prometheus.start_time,
        "to": end,
        "theme": theme,
        "scrape-interval": f"{INTERVAL}s",
    }
    flags |= {"out": out} if out else {}
    command = [RENDER, dashboard, *(f"--{name}={value}" for name, value in flags.items())]
    command += [f"--var={one}" for one in chosen] + [f"--empty={one}" for one in empty]
    drawn = subprocess.run(command, capture_output=True, text=True)
    if not drawn.stdout:
        raise RuntimeError(drawn.stderr)
    return drawn


def panels_of(dashboard):
    """All panels but rows."""
    panels = json.loads(dashboard.read_text())["panels"]
    return [panel for one in panels for panel in [one, *one.get("panels", [])] if panel["type"] != "row"]


def promql_pattern(value):
    """As Grafana writes a chosen value into a regular expression in a string."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value)


class Incident(unittest.TestCase):
    scenario = "incident"

    @classmethod
    def setUpClass(cls):
        cls.prometheus = cls.enterClassContext(RecordedPrometheus(cls.scenario))
        cls.end = cls.prometheus.end_time
        if cls.scenario in MOMENT:
            cls.end = cls.prometheus.start_time + MOMENT[cls.scenario]
        cls.drawn, cls.reports = {}, {}
        folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        for name, theme in itertools.product(DASHBOARDS, THEMES):
            out = folder / f"{name}-{cls.scenario}-{theme}.png"
            empty = EMPTY.get((name, cls.scenario), [])
            drawn = render(DASHBOARDS[name], cls.prometheus, cls.end, theme, out, CHOSEN[name], empty)
            cls.drawn[name, theme] = drawn
            cls.reports[name, theme] = json.loads(drawn.stdout)
            if os.environ.get("UPDATE_PICTURES"):
                PICTURES.mkdir(exist_ok=True)
                few_colours = ["pngquant", "--quality=60-95", "--speed=1", "--strip", "--force", "--output"]
                subprocess.run([*few_colours, PICTURES / out.name, out], check=True)

    def panels(self, *types):
        """Of each panel that has data: a name, how it is written, how it was drawn, its queries as Grafana asks them."""
        for name, dashboard in DASHBOARDS.items():
            report = self.reports[name, "light"]
            chosen = {key: known["query"] for key, known in report["variables"].items()}
            chosen |= {"job": ".+", "instance": promql_pattern(HOST) if name == "host" else ".+"}
            for panel in panels_of(dashboard):
                # A panel that repeats tells by its title for what.
                title = re.escape(panel["title"]).replace(re.escape(f"${panel.get('repeat')}"), "(.+)")
                found = [(one, match) for one in report["panels"] if (match := re.fullmatch(title, one["title"]))]
                self.assertTrue(found, panel["title"])
                for drawn, match in found:
                    if panel["type"] not in types or drawn["state"] == "no data":
                        continue
                    values = chosen | ({panel["repeat"]: promql_pattern(match[1])} if "repeat" in panel else {})
                    queries = zip(panel["targets"], drawn["queries"], strict=True)
                    queries = [self.question(target["expr"], values, query) for target, query in queries]
                    yield f"{name}: {drawn['title']}", panel, drawn, queries

    def question(self, expression, values, query):
        """The query with our own values in it; only the step of a range is believed."""
        step = query.get("step", INTERVAL)
        values = values | {
            "__interval": f"{step}s",
            "__rate_interval": f"{max(step + INTERVAL, 4 * INTERVAL)}s",
            "__range": f"{self.end - self.prometheus.start_time}s",
        }
        return query | {"query": re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], expression)}

    def answers(self, queries):
        """Of each series: its number of points, and time and value of the last."""
        for query in queries:
            if "time" in query:
                for _, value in self.prometheus.query_at(query["query"], self.end):
                    yield 1, self.end, value
            else:
                ends = query["start"], query["end"], query["step"]
                for series in self.prometheus.query_range(query["query"], *ends):
                    time, value = series["values"][-1]
                    yield len(series["values"]), time, float(value)

    def test_each_panel_is_drawn_and_has_data(self):
        for (name, theme), report in self.reports.items():
            with self.subTest(name, theme=theme):
                self.assertEqual(self.drawn[name, theme].returncode, 0, self.drawn[name, theme].stderr)
                self.assertEqual(report["complaints"], [])
                states = {one["title"]: one["state"] for one in report["panels"] if one["state"] != "done"}
                self.assertEqual(states, dict.fromkeys(EMPTY.get((name, self.scenario), []), "no data"))

    def test_each_graph_leaves_ink(self):
        for (name, theme), report in self.reports.items():
            for panel in report["panels"]:
                if "ink" in panel and not panel["blank"]:
                    with self.subTest(name, theme=theme, panel=panel["title"]):
                        self.assertGreater(panel["ink"], 50)

    def test_graphs_have_the_series_of_prometheus(self):
        compared = 0
        for name, _, drawn, queries in self.panels("timeseries"):
            with self.subTest(name):
                expected = list(self.answers(queries))
                shown = [(one["points"], one["at"], one["last"]) for one in drawn["series"]]
                shown = [(points, at, math.nan if last is None else float(last)) for points, at, last in shown]
                if any("topk" in query["query"] for query in queries):
                    # Which of those that are equal, Prometheus chooses anew each time; not how many, nor their values.
                    end = queries[0]["end"]
                    expected, shown = (
                        [sum(points for points, _, _ in them), *sorted(last for _, at, last in them if at == end)]
                        for them in (expected, shown)
                    )
                self.assertEqual(*([str(one) for one in them] for them in (shown, expected)))
                compared += len(expected)
        self.assertGreater(compared, 20)

    def test_stats_show_the_numbers_of_prometheus(self):
        compared = 0
        for name, _, drawn, queries in self.panels("stat", "bargauge"):
            with self.subTest(name):
                expected = [value for _, _, value in self.answers(queries)]
                self.assertEqual([one["value"] for one in drawn["values"]], expected)
                for one in drawn["values"]:
                    self.assertIn(one["text"].replace(" ", ""), re.sub(r"\s", "", drawn["text"]))
                    if re.fullmatch(r"\d+", one["text"]):
                        self.assertEqual(int(one["text"]), round(one["value"]))
                        compared += 1
        self.assertGreater(compared, 3)

    def test_tables_show_the_numbers_of_prometheus(self):
        compared = 0
        for name, panel, drawn, queries in self.panels("table"):
            organize = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
            origin = {new: old for one in organize for old, new in one["renameByName"].items()}
            labels = {column: origin.get(column, column) for column in drawn["columns"]}
            labels = {column: label for column, label in labels.items() if not label.startswith("Value")}
            for query in queries:
                # A table of one query has one value, without its letter.
                (column,) = [new for new, old in origin.items() if old in ("Value", f"Value #{query['refId']}")]
                answer = {
                    tuple(metric.get(label, "") for label in labels.values()): value
                    for metric, value in self.prometheus.query_at(query["query"], self.end)
                }
                for row in drawn["rows"]:
                    row = dict(zip(drawn["columns"], row, strict=True))
                    with self.subTest(name, row=row, column=column):
                        value = answer.get(tuple(row[label] for label in labels), math.nan)
                        self.assertEqual(row[column] == "", math.isnan(value))
                        if re.fullmatch(r"\d+", row[column]):
                            self.assertEqual(int(row[column]), round(value))
                            compared += 1
        self.assertGreater(compared, 3)


class Calm(Incident):
    scenario = "calm"


class Loud(unittest.TestCase):
    """What cannot be drawn, or shows nothing, is an error and names itself."""

    OVERRIDE = {"matcher": {"id": "byName", "options": "x"}, "properties": [{"id": "custom.dance", "value": 1}]}
    FIELDS = {"defaults": {"custom": {"dance": 1}}, "overrides": [OVERRIDE]}
    PANELS = {
        "type": ({"type": "gauge"}, "panel type gauge is not drawn"),
        "option": ({"options": {"dance": True}}, "options.dance is not drawn"),
        "option below": ({"options": {"legend": {"dance": True}}}, "options.legend.dance is not drawn"),
        "field": ({"fieldConfig": FIELDS | {"overrides": []}}, "fieldConfig.defaults.custom.dance is not drawn"),
        "override": ({"fieldConfig": FIELDS | {"defaults": {}}}, "custom.dance is not drawn"),
        "transformation": ({"transformations": [{"id": "dance", "options": {}}]}, "transformation dance is not drawn"),
        "variable": ({"expr": "up{job=~'$dance'}"}, "nothing is known of $dance"),
        "expression": ({"expr": "up{"}, "Prometheus: "),
        "two frames": ({"type": "table", "format": "table", "second": "up"}, "of 2 frames shows only the first"),
        "no data": ({"expr": "no_such_metric"}, "no data"),
        "no ink": ({"expr": "up * NaN"}, "nothing is to be seen"),
        "full": ({}, "has data"),
        "empty": ({"expr": "no_such_metric"}, None),
        "good": ({}, None),
    }

    def test_each_says_what_is_wrong(self):
        panels = []
        for number, (title, (changed, _)) in enumerate(self.PANELS.items()):
            changed = dict(changed)
            target = {"expr": changed.pop("expr", "up"), "format": changed.pop("format", "time_series")}
            targets = [{"refId": "A"} | target]
            if second := changed.pop("second", None):
                targets.append({"refId": "B"} | target | {"expr": second})
            panel = {"id": number, "type": "timeseries", "title": title, "targets": targets}
            panels.append(panel | {"gridPos": {"x": 0, "y": 4 * number, "w": 12, "h": 4}} | changed)
        with RecordedPrometheus("incident") as prometheus, tempfile.TemporaryDirectory() as folder:
            dashboard = Path(folder) / "loud.json"
            dashboard.write_text(json.dumps({"title": "Loud", "uid": "loud", "panels": panels}))
            drawn = render(dashboard, prometheus, prometheus.end_time, empty=["empty", "full"])
        self.assertEqual(drawn.returncode, 1)
        said = dict(line.split(": ", 1) for line in drawn.stderr.splitlines() if ": " in line)
        for title, (_, complaint) in self.PANELS.items():
            with self.subTest(title):
                self.assertIn(complaint, said.get(title, "")) if complaint else self.assertNotIn(title, said)

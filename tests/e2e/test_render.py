"""The dashboards as they are seen: drawn in Chromium with Grafana's published components, compared with what Prometheus answers.

See tests/render/render for what of it is Grafana's and what is ours. UPDATE_PICTURES=1 keeps the pictures in docs/pictures.
"""

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
CHOSEN = {"fleet": [], "host": [f"instance={HOST}"]}
EVERYWHERE = r".+"
# Panels that have nothing to tell in that scenario. One that has is an error as well.
EMPTY = {("fleet", "calm"): ["Which hosts are not fully seen?"]}


def render(dashboard, prometheus, end, theme="light", out=None, chosen=(), empty=()):
    command = [RENDER, dashboard, "--prometheus", f"http://{prometheus.address}", "--theme", theme]
    command += ["--from", str(prometheus.start_time), "--to", str(end), "--scrape-interval", f"{INTERVAL}s"]
    command += [f"--var={one}" for one in chosen] + [f"--empty={one}" for one in empty] + ([f"--out={out}"] if out else [])
    return subprocess.run(command, capture_output=True, text=True)


def panels_of(dashboard):
    """All panels but rows."""
    panels = json.loads(dashboard.read_text())["panels"]
    return [panel for one in panels for panel in [one, *one.get("panels", [])] if panel["type"] != "row"]


def promql_pattern(value):
    """As Grafana writes a chosen value into a regular expression in a string."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value)


class Incident(unittest.TestCase):
    """One scenario."""

    scenario = "incident"

    @classmethod
    def setUpClass(cls):
        cls.prometheus = RecordedPrometheus(cls.scenario)
        cls.enterClassContext(cls.prometheus)
        cls.end = cls.prometheus.start_time + MOMENT[cls.scenario] if cls.scenario in MOMENT else cls.prometheus.end_time
        cls.reports, folder = {}, cls.enterClassContext(tempfile.TemporaryDirectory())
        for name, dashboard in DASHBOARDS.items():
            for theme in ("light", "dark"):
                out = Path(folder) / f"{name}-{cls.scenario}-{theme}.png"
                drawn = render(dashboard, cls.prometheus, cls.end, theme, out, CHOSEN[name], EMPTY.get((name, cls.scenario), []))
                cls.reports[name, theme] = drawn, json.loads(drawn.stdout or "{}"), out.exists() and out.stat().st_size
                if os.environ.get("UPDATE_PICTURES") and out.exists():
                    PICTURES.mkdir(exist_ok=True)
                    few_colours = ["pngquant", "--quality", "60-95", "--speed", "1", "--strip", "--force", "--output"]
                    subprocess.run([*few_colours, PICTURES / out.name, out], check=True)

    def each(self):
        """Name of the dashboard, panel as written, panel as drawn, and its expressions as Grafana would ask them."""
        for name, dashboard in DASHBOARDS.items():
            report = self.reports[name, "light"][1]
            for panel in panels_of(dashboard):
                repeat = panel.get("repeat")
                title = re.escape(panel["title"]).replace(re.escape(f"${repeat}"), "(.+)")
                found = [(one, re.fullmatch(title, one["title"])) for one in report["panels"] if one["type"] == panel["type"]]
                found = [(one, match) for one, match in found if match]
                self.assertTrue(found, panel["title"])
                for one, match in found:
                    if one["state"] != "done":
                        continue
                    values = {key: known["query"] for key, known in report["variables"].items()}
                    values |= {"job": EVERYWHERE, "instance": promql_pattern(HOST) if name == "host" else EVERYWHERE}
                    if repeat:
                        values[repeat] = promql_pattern(match[1])
                    yield name, panel, one, [self.asked(target["expr"], values, query) for target, query in zip(panel["targets"], one["queries"])]

    def asked(self, expression, values, query):
        step = query.get("step", INTERVAL)
        span = f"{self.end - self.prometheus.start_time}s"
        values = values | {"__rate_interval": f"{max(step + INTERVAL, 4 * INTERVAL)}s", "__interval": f"{step}s", "__range": span}
        return re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], expression)

    def test_each_panel_is_drawn_and_has_data(self):
        for (name, theme), (drawn, report, size) in self.reports.items():
            with self.subTest(name, theme=theme):
                self.assertEqual(drawn.returncode, 0, drawn.stderr)
                self.assertEqual(report["complaints"], [])
                self.assertGreater(size, 20000)
                states = {one["title"]: one["state"] for one in report["panels"] if one["state"] != "done"}
                self.assertEqual(states, dict.fromkeys(EMPTY.get((name, self.scenario), []), "no data"))

    def test_each_graph_leaves_ink(self):
        for (name, theme), (_, report, _) in self.reports.items():
            for panel in report["panels"]:
                if panel["type"] == "timeseries" and panel["state"] == "done" and not panel["blank"]:
                    with self.subTest(name, theme=theme, panel=panel["title"]):
                        self.assertGreater(panel["ink"], 50)

    def test_graphs_have_the_series_of_prometheus(self):
        compared = 0
        for name, panel, drawn, expressions in self.each():
            if panel["type"] != "timeseries":
                continue
            with self.subTest(name, panel=drawn["title"]):
                answers = []
                for expression, query in zip(expressions, drawn["queries"]):
                    answers += self.prometheus.query_range(expression, query["start"], query["end"], query["step"])
                end = drawn["queries"][0]["end"]
                expected = [(len(one["values"]), one["values"][-1][0], float(one["values"][-1][1])) for one in answers]
                shown = [(one["points"], one["at"], math.nan if one["last"] is None else float(one["last"])) for one in drawn["series"]]
                if any("topk" in one for one in expressions):
                    # Which of those that are equal, Prometheus chooses anew each time. Their number and values are the same.
                    expected, shown = ([sum(points for points, _, _ in them), *sorted(value for _, at, value in them if at == end)] for them in (expected, shown))
                self.assertEqual(*(list(map(str, them)) for them in (shown, expected)))
                compared += len(expected)
        self.assertGreater(compared, 20)

    def test_stats_show_the_numbers_of_prometheus(self):
        compared = 0
        for name, panel, drawn, expressions in self.each():
            if panel["type"] not in ("stat", "bargauge"):
                continue
            with self.subTest(name, panel=drawn["title"]):
                expected = []
                for expression, query in zip(expressions, drawn["queries"]):
                    if "time" in query:
                        expected += [value for _, value in self.prometheus.query_at(expression, self.end)]
                    else:
                        expected += [float(one["values"][-1][1]) for one in self.prometheus.query_range(expression, query["start"], query["end"], query["step"])]
                self.assertEqual([one["value"] for one in drawn["values"]], expected)
                for one in drawn["values"]:
                    self.assertIn(one["text"].replace(" ", ""), re.sub(r"\s", "", drawn["text"]))
                    if re.fullmatch(r"\d+", one["text"]):
                        self.assertEqual(int(one["text"]), round(one["value"]))
                        compared += 1
        self.assertGreater(compared, 3)

    def test_tables_show_the_numbers_of_prometheus(self):
        compared = 0
        for name, panel, drawn, expressions in self.each():
            if panel["type"] != "table":
                continue
            renamed = {new: old for one in panel["transformations"] if one["id"] == "organize" for old, new in one["options"]["renameByName"].items()}
            keys = [(column, old) for column in drawn["columns"] if (old := renamed.get(column, column)).islower()]
            for target, expression in zip(panel["targets"], expressions):
                values = [new for new, old in renamed.items() if old in ("Value", f"Value #{target['refId']}")]
                answer = {tuple(labels.get(old, "") for _, old in keys): value for labels, value in self.prometheus.query_at(expression, self.end)}
                for row in drawn["rows"]:
                    shown = dict(zip(drawn["columns"], row))
                    expected = answer.get(tuple(shown[column] for column, _ in keys))
                    with self.subTest(name, panel=drawn["title"], row=row, column=values):
                        text = shown[values[0]]
                        self.assertEqual(bool(text), expected is not None and not math.isnan(expected))
                        if re.fullmatch(r"\d+", text):
                            self.assertEqual(int(text), round(expected))
                            compared += 1
        self.assertGreater(compared, 3)


class Calm(Incident):
    scenario = "calm"


class Loud(unittest.TestCase):
    """What cannot be drawn, or shows nothing, is an error and names itself."""

    PANELS = {
        "unknown type": ({"type": "gauge"}, "panel type gauge is not drawn"),
        "unknown option": ({"options": {"dance": True}}, "options.dance is not drawn"),
        "unknown option below": ({"options": {"legend": {"dance": True}}}, "options.legend.dance is not drawn"),
        "unknown field": ({"fieldConfig": {"defaults": {"custom": {"dance": 1}}, "overrides": []}}, "fieldConfig.defaults.custom.dance is not drawn"),
        "unknown override": ({"fieldConfig": {"defaults": {}, "overrides": [{"matcher": {"id": "byName", "options": "x"}, "properties": [{"id": "custom.dance", "value": 1}]}]}}, "custom.dance is not drawn"),
        "unknown transformation": ({"transformations": [{"id": "dance", "options": {}}]}, "transformation dance is not drawn"),
        "unknown variable": ({"expr": "up{job=~'$dance'}"}, "nothing is known of $dance"),
        "wrong expression": ({"expr": "up{"}, "Prometheus: "),
        "no data": ({"expr": "no_such_metric"}, "no data"),
        "no ink": ({"expr": "up * NaN"}, "nothing is to be seen"),
        "two frames": ({"type": "table", "format": "table", "second": "up"}, "a table of 2 frames shows only the first"),
        "good": ({}, None),
        "empty": ({"expr": "no_such_metric"}, None),
        "full": ({}, "has data"),
    }

    def test_each_says_what_is_wrong(self):
        panels = []
        for number, (title, (changed, _)) in enumerate(self.PANELS.items()):
            changed = dict(changed)
            targets = [{"refId": "A", "expr": changed.pop("expr", "up"), "format": changed.pop("format", "time_series")}]
            if second := changed.pop("second", None):
                targets = [dict(targets[0], instant=True), {"refId": "B", "expr": second, "format": "table", "instant": True}]
            place = {"x": 0, "y": 4 * number, "w": 12, "h": 4}
            panels.append({"id": number, "type": "timeseries", "title": title, "gridPos": place, "targets": targets} | changed)
        with RecordedPrometheus("incident") as prometheus, tempfile.TemporaryDirectory() as folder:
            dashboard = Path(folder) / "loud.json"
            dashboard.write_text(json.dumps({"title": "Loud", "uid": "loud", "panels": panels}))
            drawn = render(dashboard, prometheus, prometheus.end_time, empty=["empty", "full"])
        self.assertEqual(drawn.returncode, 1)
        said = dict(line.split(": ", 1) for line in drawn.stderr.splitlines() if ": " in line)
        for title, (_, complaint) in self.PANELS.items():
            with self.subTest(title):
                self.assertIn(complaint, said.get(title, "")) if complaint else self.assertNotIn(title, said)

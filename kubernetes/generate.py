"""Writes kubernetes/monitoring/prometheusrule.yaml from alerts/dovecot.rules.yml. Run it after a change there.

    python3 kubernetes/generate.py

The dashboards need no copy: kustomize makes ConfigMaps of them where they are.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE.parent / "alerts/dovecot.rules.yml"
MANIFEST = HERE / "monitoring/prometheusrule.yaml"

# The labels by which the Prometheus of kube-prometheus chose its rules; newer ones take all.
HEAD = """\
# Written by kubernetes/generate.py from alerts/dovecot.rules.yml: change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: dovecot-capacity
  labels:
    prometheus: k8s
    role: alert-rules
spec:
"""


def manifest(rules: str) -> str:
    """The file of rules, from its first key on, as the `spec` of a PrometheusRule."""
    return HEAD + textwrap.indent(rules[rules.index("groups:\n") :], "  ")


if __name__ == "__main__":
    MANIFEST.write_text(manifest(RULES.read_text()))

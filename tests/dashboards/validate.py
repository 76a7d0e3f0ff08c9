"""Checks dashboards against Grafana's JSON schema; prints what is wrong and ends with 1 if anything is.

    /usr/bin/python3 tests/dashboards/validate.py FILE...

Needs Debian's python3-jsonschema. dashboard.jsonschema.json is that of grafana/grafana-foundation-sdk
(jsonschema/dashboard.jsonschema.json), Copyright Grafana Labs, under the Apache License 2.0 (LICENSE-APACHE).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema


def schema() -> dict[str, object]:
    schema = json.loads((Path(__file__).parent / "dashboard.jsonschema.json").read_text())
    # Anything is allowed here, and the schema says object: every valid dashboard would fail.
    schema["definitions"]["DynamicConfigValue"]["properties"]["value"] = {}
    schema["definitions"]["MatcherConfig"]["properties"]["options"] = {}
    return schema


def main() -> int:
    validator = jsonschema.Draft7Validator(schema())
    faults = 0
    for path in sys.argv[1:]:
        for error in validator.iter_errors(json.loads(Path(path).read_text())):
            print(f"{path}: {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}")
            faults += 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""Reads manifests (YAML) from standard input and writes them and what is wrong with them: {"documents": ..., "faults": ...}.

Needs the packages of requirements.txt. Kubernetes' own kinds are checked by its schemas, those of the Prometheus operator by
the models made from its CustomResourceDefinitions. Neither an API server nor an operator has seen them then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pydantic
import yaml
from cloudcoil.models.prometheus_operator import v1 as monitoring

VERSION = kubernetes_validate.latest_version()
Document = dict[str, Any]


def unknown(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Where `given` has fields that the model did not keep: an API server drops them or refuses."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key in known:
                yield from unknown(value, known[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}: unknown field"
    elif isinstance(given, list):
        for index, (one, other) in enumerate(zip(given, known, strict=True)):
            yield from unknown(one, other, f"{path}/{index}")


def faults(document: Document) -> Iterator[str]:
    if document["apiVersion"] == "monitoring.coreos.com/v1":
        try:
            model = getattr(monitoring, document["kind"]).model_validate(document)
        except pydantic.ValidationError as error:
            yield from (f"/{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        else:
            yield from unknown(document, model.model_dump(mode="json", by_alias=True, exclude_unset=True))
    else:
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"/{'/'.join(map(str, error.path))}: {error.message}"


def main() -> None:
    documents = list(yaml.safe_load_all(sys.stdin))
    found = [f"{one['kind']} {one['metadata']['name']}: {fault}" for one in documents for fault in faults(one)]
    json.dump({"documents": documents, "faults": found}, sys.stdout)


if __name__ == "__main__":
    main()

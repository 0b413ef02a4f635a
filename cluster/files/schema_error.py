"""An error of a JSON Schema as a finding: the key, what is wrong with it, and the nearest known name."""

from __future__ import annotations

import re
from typing import Any

from cluster.files.finding import FileFindings
from cluster.files.key_path import KeyPath
from trainer.errors import nearest


def add_schema_error(findings: FileFindings, error: Any, source: str) -> None:
    """Add a ``jsonschema.ValidationError``. ``source``: whose schema it is, such as Ray."""
    path: KeyPath = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known, patterns = list(error.schema.get("properties", {})), list(error.schema.get("patternProperties", {}))
        for key in map(str, error.instance):
            if key not in known and not any(re.search(p, key) for p in patterns):
                findings.error((*path, key), f"is not a known key.{nearest(key, known)}")
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                findings.error((*path, key), f"is missing: {source} requires it")
    elif error.validator == "enum":
        known = [str(v) for v in error.validator_value]
        findings.error(path, f"is not known.{nearest(str(error.instance), known)}", value=error.instance)
    elif error.validator in ("type", "anyOf"):
        wanted = error.validator_value if error.validator == "type" else "integer or string"
        quotes = "Put it in quotes." if wanted == "string" else ""
        findings.error(path, f"must be of type {wanted}", quotes, error.instance)
    else:
        findings.error(path, f"is refused by {source}: {error.message.splitlines()[0][:200]}")

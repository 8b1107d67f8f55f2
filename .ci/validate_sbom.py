"""Check that a file is a bill of materials by the schema of CycloneDX 1.5. `make sbom` runs it.

python validate_sbom.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft7Validator

# Hundreds of addresses of files take a grammar of RFC 3987 a minute.
Draft7Validator.FORMAT_CHECKER.checkers.pop("iri-reference", None)
fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(Path(sys.argv[1]).read_text())
if fault is not None:
    sys.exit(f"{sys.argv[1]} is no CycloneDX 1.5: {fault}")

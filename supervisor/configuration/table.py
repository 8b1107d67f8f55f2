"""A table of `killable.toml`, as a model.

Runs in: supervisor, before it starts. Pure.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from killable.supervisor.configuration.documentation import documentation_of


def _add_documentation(schema: dict[str, Any], table: type[Table]) -> None:
    """Describe the keys of a table in its JSON Schema."""
    documentation = documentation_of(table.documented_by or table)
    for key, form in schema.get("properties", {}).items():
        if key in documentation:
            form.setdefault("description", documentation[key])


class Table(BaseModel):
    """One table: no other keys, and a string under each that is its documentation. It is looked up when the schema is
    asked for: `use_attribute_docstrings` of pydantic does so in each start of a server, and takes 0.1 s of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_add_documentation)

    documented_by: ClassVar[type | None] = None
    """The class whose fields the keys are, and have their documentation."""

    def given(self) -> dict[str, Any]:
        """Return the keys that were written, without the defaults."""
        return self.model_dump(exclude_unset=True)

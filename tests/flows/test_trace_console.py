"""What `lclsc trace` says of those who withdrew."""

from __future__ import annotations

import pytest

from flows import console, evidence


@pytest.mark.parametrize(
    ("kind", "name", "withdrawn", "header"),
    [
        ("patient", "kdemo-a", ["kdemo-a"], "patient kdemo-a (withdrawn)"),
        ("model", "1", ["kdemo-a", "kdemo-b"], "model 1 (withdrawn: kdemo-a, kdemo-b)"),
        ("patient", "kdemo-a", [], "patient kdemo-a"),
    ],
)
def test_a_header_names_whom_it_does_not_name_anyway(kind: str, name: str, withdrawn: list[str], header: str) -> None:
    with console.out.capture() as told:
        evidence._print_trace({"kind": kind, "id": name, "withdrawn": withdrawn, "videos": []})
    assert told.get().splitlines()[0] == header

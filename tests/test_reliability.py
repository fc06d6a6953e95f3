"""docs/reliability.md says what the tests know."""

from __future__ import annotations

from .support.exports import CHECKOUT
from .support.reliability_tables import DOCUMENT, written


def test_the_document_has_the_tables_of_the_tests():
    text = DOCUMENT.read_text()
    assert written(text) == text, "run: python -m tests.support.reliability_tables"


def test_the_files_it_names_are_there():
    text = DOCUMENT.read_text()
    for name in ("test_kill.py", "test_damage.py", "test_change.py"):
        assert f"tests/workflow/{name}" in text
        assert (CHECKOUT / "tests" / "workflow" / name).exists()

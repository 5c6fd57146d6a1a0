import tomllib

import pytest

pytest.importorskip("cosmic_ray", reason="needs the extra `dev`")

from reliability.mutant_report import KNOWN
from reliability.mutants import SOURCES


def test_known_mutants_are_of_the_library_as_it_is():
    known = tomllib.loads(KNOWN.read_text())
    assert set(known) == {"equivalent", "survivor"}
    for entry in known["equivalent"] + known["survivor"]:
        lines = [line.strip() for line in (SOURCES / entry["file"]).read_text().splitlines()]
        assert entry["line"] in lines, entry
        assert entry["line"] not in entry["became"]
        assert entry["why"]

"""Reading the metadata beside products: every form that providers write, and files that are
damaged or hostile."""

from __future__ import annotations

import pytest

from rs_embed.products import ProductFiles
from rs_embed.products.delivery import compact_time, metadata_fields, parse_xml, percent

FIELDS = {"CLOUD_COVER": "3.21", "DATE_ACQUIRED": "2022-07-01"}


@pytest.mark.parametrize(
    "text",
    [
        '{"A": {"B": [{"CLOUD_COVER": 3.21}], "CLOUD_COVER": "9", "DATE_ACQUIRED": "2022-07-01"}}',
        "<A xmlns='urn:x'><CLOUD_COVER>3.21</CLOUD_COVER><B><CLOUD_COVER>9</CLOUD_COVER></B><DATE_ACQUIRED> 2022-07-01 </DATE_ACQUIRED></A>",
        'GROUP = A\n    CLOUD_COVER = 3.21\n    DATE_ACQUIRED = "2022-07-01"\n  CLOUD_COVER = 9\nEND\n',
        'GROUP = A\r\n\tCLOUD_COVER = 3.21\r\n\tDATE_ACQUIRED = "2022-07-01"\r\nEND\r\n',
    ],
)
def test_fields_of_every_form(text):
    assert metadata_fields(text).items() >= FIELDS.items()


@pytest.mark.parametrize(
    "text", [None, "", "{", "<a", "[" * 100_000, "no fields", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>']
)
def test_what_cannot_be_read_has_no_fields(text):
    assert metadata_fields(text) == {}
    assert parse_xml(text) is None


def test_percent_and_times():
    assert [percent(t) for t in ("0", "100.0", "-1", "101", "x", None, "nan")] == [0, 100, *[None] * 5]
    assert compact_time("2024060") == "2024-02-29"
    assert compact_time("20220701t101112Z") == "2022-07-01T10:11:12Z"
    for text in ("20220732", "2022366", "", "20220229", "20220701T256000"):
        with pytest.raises(ValueError):
            compact_time(text)


def test_files_are_found_whatever_the_case_and_read_once(tmp_path):
    (tmp_path / "A_mtl.JSON").write_text("{}")
    (tmp_path / "binary.xml").write_bytes(b"\xff\xfe\x00")
    files, folder = ProductFiles(), tmp_path.as_posix()
    assert files.entry(folder, "a_MTL.json") == files.find(folder, r"a_mtl\.\w+") == f"{folder}/A_mtl.JSON"
    assert files.text(f"{folder}/A_mtl.JSON") == "{}"
    (tmp_path / "A_mtl.JSON").unlink()
    assert files.text(f"{folder}/A_mtl.JSON") == "{}"
    assert files.text(f"{folder}/binary.xml") is files.text(f"{folder}/none") is files.text(folder) is None
    assert files.names(f"{folder}/none") == ()

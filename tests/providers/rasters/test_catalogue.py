"""Catalogues: reading, refusals, and the draft that the command writes for a folder."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import ProviderError
from rs_embed.cli import main
from rs_embed.providers.rasters.catalogue import ORBITS, Row, read_catalogue, write_catalogue

from ...support.factories import PROPERTY
from ...support.rasters import at, chip, noise
from ...support.rasters import write as raster

WORD = st.text("abcXYZ012_-. ", min_size=1, max_size=12).map(str.strip).filter(bool)
ROWS = st.lists(
    st.builds(
        Row,
        line=st.just(0),
        path=WORD,
        collection=st.just("C"),
        datetime=st.datetimes().map(lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")),
        bands=st.lists(WORD.filter(lambda w: " " not in w), unique=True, max_size=3).map(tuple),
        scale=st.floats(0.001, 1000),
        offset=st.floats(-1000, 1000).map(lambda v: v + 0.0),
        nodata=st.one_of(st.none(), st.just("nan"), st.floats(-1e9, 1e9)),
        cloud_cover=st.one_of(st.none(), st.floats(0, 100)),
        orbit=st.sampled_from([None, *ORBITS]),
        subtract=st.integers(0, 2000),
        note=st.one_of(st.just(""), WORD),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda r: r.path,
)


@PROPERTY
@given(rows=ROWS)
def test_a_written_catalogue_reads_back(tmp_path_factory, rows):
    from dataclasses import replace

    path = tmp_path_factory.mktemp("c") / "catalogue.csv"
    rows = [replace(r, scene=r.path) for r in rows]
    write_catalogue(str(path), rows)
    assert [replace(r, line=0) for r in read_catalogue(str(path))] == rows


def text(tmp_path, content: str | bytes):
    path = tmp_path / "catalogue.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_times_of_any_form_become_utc_of_one_form(tmp_path):
    times = ["2022-07-01", "2022-07-01 10:00", "2022-07-01T10:00:00+02:00", "2022-07-01T10:00:00.5Z"]
    rows = "\n".join(f"{i}.tif,S2,{t}" for i, t in enumerate(times))
    found = read_catalogue(text(tmp_path, f"\ufeffpath, collection, datetime\n\n{rows}\n"))
    hours = ["00", "10", "08", "10"]
    assert [r.datetime for r in found] == [f"2022-07-01T{h}:00:00Z" for h in hours]
    assert found[0].line == 3
    assert found[0].scene == "0.tif"


HEAD = "path,collection,datetime,bands,scene,cloud_cover,scale,nodata,orbit\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("the column 'path' is missing",)),
        ("path,collection\na,b\n", ("the column 'datetime' is missing", "required: path")),
        (HEAD, ("is empty; allowed: at least one row",)),
        ("path,colection,datetime\n", ("unknown column 'colection' (did you mean 'collection'?)",)),
        ("path,path,collection,datetime\n", ("'path' occurs twice",)),
        (HEAD + "a.tif,,2022-07-01\n", ("line 2: collection is missing",)),
        (HEAD + "a.tif,S2,July\n", ("line 2: datetime: 'July' is not valid; allowed: a date YYYY-MM-DD",)),
        (HEAD + "a.tif,S2,2022-07-01,B2 B2\n", ("names a band twice",)),
        (HEAD + "a.tif,S2,2022-07-01,,,101\n", ("cloud_cover: 101 is not valid; allowed: 0 to 100",)),
        (HEAD + "a.tif,S2,2022-07-01,,,some\n", ("cloud_cover: 'some'",)),
        (HEAD + "a.tif,S2,2022-07-01,,,,0\n", ("scale: 0 is not valid",)),
        (HEAD + "a.tif,S2,2022-07-01,,,,,x\n", ("nodata: 'x'",)),
        (HEAD + "a.tif,S2,2022-07-01,,,,,,UP\n", ("orbit: 'UP' is not valid",)),
        (HEAD + "a.tif,S2,2022-07-01,,,,,,,,\n", ("beyond the last column",)),
        (HEAD + "a.tif,S2,2022-07-01\n./a.tif,S2,2022-07-02\n", ("lines 2 and 3 are the same file",)),
        (HEAD + "a,S2,2022-07-01,,s\nb,S2,2022-07-02,,s\n", ("with different date",)),
        (HEAD + "a,S2,2022-07-01,,s,3\nb,S2,2022-07-01,,s,4\n", ("with different cloud_cover",)),
        (
            "path,collection,datetime,subtract\na,S2,2022-07-01,-1\n",
            ("subtract: -1 is not valid; allowed: an integer",),
        ),
        ("path,collection,datetime,subtract\na,S2,2022-07-01,0.5\n", ("subtract: 0.5 is not valid",)),
        (
            "path;collection;datetime\na;S2;2022-07-01\n",
            ("is separated by semicolons; allowed: a table separated by commas",),
        ),
        (b"path,collection,datetime\n\xff,a,b\n", ("is not UTF-8",)),
        (b'path,collection,datetime\n"a\x00,b,c\n', ()),
    ],
)
def test_an_invalid_catalogue_is_refused_in_one_sentence(tmp_path, content, words):
    with pytest.raises(ProviderError) as error:
        read_catalogue(text(tmp_path, content))
    assert "\n" not in str(error.value)
    assert "catalogue.csv" in str(error.value)
    for word in words:
        assert word in str(error.value)


# the command -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    raster(tmp_path / "s2" / "a_20220701.tif", noise(0))
    raster(tmp_path / "s2" / "b.tif", noise(1), tags={"datetime": "2022-07-05T10:00:00.000000000"})
    raster(tmp_path / "named" / "c_2022-08-01.tif", noise(2), names=("B2", "B3"))
    return tmp_path


def test_only_what_is_missing_in_the_files_is_asked(folder, monkeypatch, capsys):
    prompts = []
    answers = {"collection of 1 file like named": "S2", "collection of 2 files like s2": "S2", "bands of 2": "B2 B3"}

    def answer(prompt=""):
        prompts.append(prompt)
        return next(v for k, v in answers.items() if prompt.startswith(k))

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    assert main(["catalogue", str(folder)]) == 0
    assert len(prompts) == 3, prompts
    out = capsys.readouterr().out
    assert "3 files, 2022-07-01 to 2022-08-01" in out
    assert "dates from file name: 2 files" in out
    rows = {r.path: r for r in read_catalogue(str(folder / "catalogue.csv"))}
    assert rows["s2/a_20220701.tif"].bands == ("B2", "B3")
    assert rows["s2/b.tif"].datetime == "2022-07-05T10:00:00Z"
    assert rows["named/c_2022-08-01.tif"].bands == (), "the file names them"
    assert chip(folder, at(30, 30))[0].pixels.shape == (2, 20, 20)


def test_answers_as_options_for_all_files_or_those_of_a_folder(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    raster(folder / "s1" / "d.tif", noise(3))
    raster(folder / "s1" / "no_place.tif", noise(3), crs=None)
    assert main(["catalogue", str(folder)]) == 1
    output = capsys.readouterr()
    assert "error: catalogue: --collection is missing for 1 file like named/c_2022-08-01.tif" in output.err
    assert not (folder / "catalogue.csv").exists()
    options = ["--collection", "s1=S1", "--collection", "S2", "--bands", "s1/*=VV VH", "--bands", "B2 B3"]
    assert main(["catalogue", str(folder), *options, "--datetime", "2022-01-01"]) == 0
    assert "left out: raster" in capsys.readouterr().err
    rows = {r.path: r for r in read_catalogue(str(folder / "catalogue.csv"))}
    assert (rows["s1/d.tif"].collection, rows["s1/d.tif"].bands, rows["s1/d.tif"].date) == (
        "S1",
        ("VV", "VH"),
        "2022-01-01",
    )
    assert rows["s2/a_20220701.tif"].date == "2022-07-01", "an answer does not replace the metadata of a file"
    assert len(rows) == 4
    assert main(["catalogue", str(folder), *options]) == 1
    assert "exists already; allowed: --replace" in capsys.readouterr().err
    assert main(["catalogue", str(folder), *options, "--datetime", "2022-01-02", "--replace"]) == 0


def test_a_product_of_a_file_per_band_is_one_scene_of_its_finest_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for name in ("R10m/T32VNJ_20220701T104031_B02_10m", "R20m/T32VNJ_20220701T104031_B02_20m"):
        raster(tmp_path / f"{name}.tif", noise(0, (1, 60, 60)))
    raster(tmp_path / "R20m" / "T32VNJ_20220701T104031_B8A_20m.tif", noise(1, (1, 30, 30)), scale=20.0)
    assert main(["catalogue", str(tmp_path), "--collection", "S2"]) == 0
    assert "another copy of R10m/T32VNJ_20220701T104031_B02_10m.tif" in capsys.readouterr().err
    got, _ = chip(tmp_path, at(30, 30), bands=("B2", "B8A"))
    assert got.pixels.shape == (2, 20, 20)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["T32VNJ_20220701T104031"]


def test_a_folder_without_rasters_is_refused(tmp_path, capsys):
    assert main(["catalogue", str(tmp_path)]) == 1
    assert "has no usable raster (looked for .tif" in capsys.readouterr().err
    assert main(["catalogue", str(tmp_path / "x")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_folder_per_date_with_a_file_per_band_is_a_scene_per_date(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for day in ("20220701", "20220711"):
        for band in ("B02", "B03"):
            raster(tmp_path / "real" / day / f"{band}.tif", noise(0, (1, 60, 60)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "linked").symlink_to(tmp_path / "real")
    assert main(["catalogue", str(tmp_path / "folder"), "--collection", "S2"]) == 0
    rows = read_catalogue(str(tmp_path / "folder" / "catalogue.csv"))
    assert [(r.scene, r.bands, r.date) for r in rows] == [
        (f"linked/2022{d}", (b,), f"2022-{d[:2]}-{d[2:]}") for d in ("0701", "0711") for b in ("B2", "B3")
    ]
    got, _ = chip(tmp_path / "folder", at(30, 30), bands=("B2", "B3"))
    assert len(got.provenance["scenes"]) == 2


def test_answers_are_matched_file_by_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for name in ("a_1", "a_2", "b_1"):
        raster(tmp_path / f"{name}.tif", noise(0), names=("B2", "B3"))
    answers = ["--collection", "a_*=A", "--collection", "b_*=B", "--datetime", "a_*=2022-07-01"]
    assert main(["catalogue", str(tmp_path), *answers]) == 1
    assert "--datetime is missing for 1 file like b_1.tif" in capsys.readouterr().err
    assert main(["catalogue", str(tmp_path), *answers, "--datetime", "2022-08-01"]) == 0
    rows = {r.path: (r.collection, r.date) for r in read_catalogue(str(tmp_path / "catalogue.csv"))}
    assert rows == {
        "a_1.tif": ("A", "2022-07-01"),
        "a_2.tif": ("A", "2022-07-01"),
        "b_1.tif": ("B", "2022-08-01"),
    }


def test_an_empty_answer_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    def nothing(prompt=""):
        raise EOFError

    raster(tmp_path / "a.tif", noise(0))
    monkeypatch.setattr("builtins.input", nothing)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    assert main(["catalogue", str(tmp_path)]) == 1
    assert "no collection was given for 1 file like a.tif" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif"]

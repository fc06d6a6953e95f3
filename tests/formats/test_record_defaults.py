"""Records that are written without repeated values are restored unchanged, whatever they
contain."""

from __future__ import annotations

import io
import json
from array import array

from hypothesis import given
from hypothesis import strategies as st

from rs_embed.formats import manifest, record_defaults
from rs_embed.reading import manifest_lines
from rs_embed.stages.manifests.duplicates import find_equal_arrays, find_repeated_rois
from rs_embed.stages.manifests.spool import Rows, Scenes

from ..support.factories import PROPERTY

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, "a", "b\n", "\0"])
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from("xyz"), scalars, max_size=3)
records = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


def same(a, b) -> bool:
    """Equal, also in type: 1 and True are not the same thing."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@PROPERTY
@given(records, records)
def test_what_differs_and_the_default_are_the_record(record, default):
    record, default = record_defaults.drop_nulls(record), record_defaults.drop_nulls(default)
    row = record_defaults.diff_from_default(record, default)
    assert record_defaults.restore_record(row, default) == record
    if record == default:
        assert row == {}


@PROPERTY
@given(st.lists(st.none() | records, max_size=30))
def test_rows_come_back_in_order(given_rows):
    rows = Rows()
    for record in given_rows:
        rows.add(record)
    default = rows.default()
    back = [r if r is None else record_defaults.restore_record(r, default) for r in rows.differing()]
    rows.close()
    assert back == [r if r is None else record_defaults.drop_nulls(r) for r in given_rows]


@PROPERTY
@given(st.permutations([7] * 40 + list(range(100, 130))))
def test_the_most_common_value_is_found_among_many(order):
    counts = record_defaults.ValueCounter()
    for value in order:
        counts.add({"a": value, "b": {"c": 1, "d": value}})
    assert counts.default() == {"a": 7, "b": {"c": 1, "d": 7}}


def test_a_single_row_has_no_default_and_lacking_keys_are_null():
    counts = record_defaults.ValueCounter()
    counts.add({"a": 1})
    assert counts.default() == {}
    rows = Rows()
    for record in ({"a": 1, "b": {"x": 1}},) * 3:
        rows.add(record)
    rows.add({"b": {}}, nulls=["z"])
    assert rows.default() == {"a": 1, "b": {"x": 1}}
    assert list(rows.differing()) == [{}, {}, {}, {"b": {"x": None}, "a": None, "z": None}]
    rows.close()


nested = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["a", "scenes"]), v, max_size=2)
)


@PROPERTY
@given(st.lists(nested, max_size=8), st.integers(0, 5))
def test_scenes_are_stored_once(records, table_size):
    import rs_embed.stages.manifests.spool as spool

    whole, spool.MAX_SCENES = spool.MAX_SCENES, table_size
    try:
        scenes = Scenes()
        short = [record_defaults.index_scenes(v, scenes.index_of) for v in records]
    finally:
        spool.MAX_SCENES = whole
    default = scenes.rows.default()
    table = [record_defaults.restore_record(s, default) if isinstance(s, dict) else s for s in scenes.rows.differing()]
    scenes.rows.close()
    assert len(table) <= table_size
    back = [record_defaults.restore_scenes(v, table.__getitem__) for v in short]
    # a scene that is a mapping comes back without its nulls
    assert same(_without_nulls(back), _without_nulls(records))


def _without_nulls(value):
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return {k: _without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12))
def test_duplicates_are_equal_arrays_of_different_places(rows):
    digests, ids = array("Q", [d for d, _ in rows]), [f"{i:032x}" for _, i in rows]
    ids = [f"{int(i, 16) << 64:032x}" for i in ids]  # different in their first 16 characters
    expected = []
    for digest in {d for d in digests if d}:
        group = [i for i, d in enumerate(digests) if d == digest]
        if len({ids[i] for i in group}) > 1:
            expected.append(group)
    assert find_equal_arrays(digests, ids) == sorted(expected)
    groups = [[i for i, one in enumerate(ids) if one == name] for name in set(ids)]
    assert find_repeated_rois(ids) == sorted(g for g in groups if len(g) > 1)


texts = st.text(max_size=5) | st.sampled_from(['"metas": [', " ]", "\n ]", "],", "\\"])
trees = st.recursive(
    scalars | texts, lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=3), max_leaves=8
)


@PROPERTY
@given(st.lists(trees, max_size=6), st.lists(trees, max_size=6), st.dictionaries(texts, trees, max_size=3))
def test_a_manifest_reads_the_same_whole_and_in_lines(tmp_path_factory, rows, more, errors):
    """Lists stay in the file until they are read, and then equal what was written."""
    document = {
        "schema_version": 2,
        "names": manifest.StreamedList(rows),
        "imagery": {"s": {"default": {}, "rows": manifest.StreamedList(more), "scenes": manifest.StreamedList(rows)}},
        "items": {"ok": 3},
        "models": [
            {
                "model": "a",
                "metas": manifest.StreamedList(rows),
                "errors_by_index": manifest.StreamedMapping(errors.items()),
            }
        ],
    }
    path = tmp_path_factory.mktemp("scan") / "m.json"
    manifest.write(path, document)
    plain = json.loads(path.read_text())
    found = manifest_lines.read_manifest(path)
    (model,) = found["models"]
    for lines, expected in (
        (found["names"], plain["names"]),
        (found["imagery"]["s"]["rows"], plain["imagery"]["s"]["rows"]),
        (model["metas"], plain["models"][0]["metas"]),
    ):
        assert isinstance(lines, manifest_lines.LineList) == bool(expected)
        assert same(list(lines), expected) and len(lines) == len(expected)
        assert same([lines[i] for i in range(len(expected))], expected)
        assert same(lines[1:3], expected[1:3])
    assert found["items"] == {"ok": 3}
    errors_by_index = model["errors_by_index"]
    assert same(
        errors_by_index.read_mapping() if isinstance(errors_by_index, manifest_lines.LineList) else errors_by_index,
        plain["models"][0]["errors_by_index"],
    )
    for indent in (None, 1, 2):  # reformatted by another program: read whole
        path.write_text(json.dumps(plain, indent=indent))
        again = manifest_lines.read_manifest(path)
        assert same([again["names"][i] for i in range(len(rows))], plain["names"])
        assert same(list(again["models"][0]["metas"]), plain["models"][0]["metas"])


def test_streams_are_strict_json_in_a_line_each():
    out = io.StringIO()
    manifest.dump(
        {"a": manifest.StreamedList([{"b": 1}, None, "x\ny"]), "c": manifest.StreamedMapping([("1", "e")])}, out
    )
    assert out.getvalue() == '{\n "a": [\n  {"b":1},\n  null,\n  "x\\ny"\n ],\n "c": {\n  "1": "e"\n }\n}'

"""Files of records of freed chips."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rs_embed.errors import StoreError
from rs_embed.store import freed_chips
from rs_embed.store.store import Store

SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = st.dictionaries(
    st.text("0123456789abcdef", min_size=32, max_size=32), st.text(max_size=9), min_size=1, max_size=40
)
HEAD = {"source": "s", "bands": ["B2", "B3"], "run": "r", "generation": None}


@SMALL
@given(NAMES, st.data())
def test_records_are_found_by_name_and_damaged_ones_are_ignored(tmp_path, files, data):
    store = Store(tmp_path / "store")
    path = freed_chips.records_path(store, "s", ("B3", "B2"), tmp_path / "runs" / "r")
    records = [{"object": n, "file": text, "of": [1, 2]} for n, text in files.items()]
    (tmp_path / "out").mkdir(exist_ok=True)
    assert freed_chips.write_records(path, store, HEAD, tmp_path / "out", data.draw(st.permutations(records))) == len(
        files
    )
    assert (
        freed_chips.list_source_records(store, "s")
        == freed_chips.list_run_records(store, tmp_path / "runs" / "r")
        == freed_chips.list_all_records(store)
        == [path]
    )
    with freed_chips.FreedChipRecords(path, store) as stored:
        assert (stored.count, stored.bands, stored.folder) == (len(files), ("B2", "B3"), tmp_path / "out")
        assert list(stored) == sorted(records, key=lambda r: r["object"])
        assert all(stored.find(r["object"]) == r for r in records)
        some = data.draw(st.sets(st.sampled_from(list(files.values()))))
        assert list(stored.find_by_files(some)) == [r for r in stored if r["file"] in some]
        assert stored.find(data.draw(st.text("0123456789abcdef", min_size=32, max_size=32))) in (None, *records)
    assert not list(tmp_path.rglob(".tmp-*"))
    head, *lines = path.read_bytes().splitlines(keepends=True)
    i = data.draw(st.integers(0, len(lines) - 1))
    position = data.draw(st.integers(len(lines[i]) // 2, len(lines[i]) - 2))
    lines[i] = lines[i][:position] + bytes([lines[i][position] ^ 1]) + lines[i][position + 1 :]
    path.write_bytes(head + b"".join(lines))
    with freed_chips.FreedChipRecords(path, store) as stored:
        intact = [stored.find(r["object"]) == r for r in sorted(records, key=lambda r: r["object"])]
        assert intact == [j != i for j in range(len(lines))]


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b'{"schema":1}\n', b"\xff" * 99])
def test_unreadable_records_are_ignored(tmp_path, content):
    store = Store(tmp_path)
    path = freed_chips.records_path(store, "s", ("B2",), tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="records"):
        freed_chips.FreedChipRecords(path, store)
    assert freed_chips.open_records(path, store) is None and freed_chips.is_export_missing(path, store)

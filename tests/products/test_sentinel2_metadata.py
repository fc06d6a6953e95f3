"""The constant in the numbers of Sentinel-2 by the metadata of the product: older and newer
products, those of a user's Sen2Cor, and damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rs_embed.products import Delivered, ProductFiles, recognise

from ..support.product_folders import BAND_IDS, product_xml

TIME = "20220701T104031"


def band_4(
    folder: Path, baseline: str, offsets: dict, *, level="L2A", change=("", ""), main=True, tile="", inside="x"
) -> Delivered | None:
    """What is said about B04 of a product."""
    name = f"S2A_MSI{level}_{TIME}_N{baseline}_R008_T32VNJ_20220701T170000.SAFE"
    root = folder / name if inside == "x" else folder / inside
    granule = root / "GRANULE" / f"{level}_T32VNJ_A036700_20220701T104027" if inside == "x" else root
    granule.mkdir(parents=True)
    if main:
        text = product_xml(name, level, baseline, TIME, 5.0, offsets)
        assert not change[0] or change[0] in text
        (root / f"MTD_MSI{level}.xml").write_text(text.replace(*change) if change[0] else text)
    if tile:
        (granule / "MTD_TL.xml").write_text(tile)
    found = recognise(f"{granule.as_posix()}/IMG_DATA/R10m/T32VNJ_{TIME}_B04_10m.jp2", ProductFiles())
    assert found is None or isinstance(found, Delivered)
    return found


OFFSETS = dict.fromkeys(BAND_IDS, -1000)


@pytest.mark.parametrize("level", ["L2A", "L1C"])
@pytest.mark.parametrize(
    ("baseline", "offsets", "subtract", "doubt"),
    [
        ("0400", OFFSETS, 1000, False),
        ("0301", {}, 0, False),
        ("9999", {}, 0, False),  # Sen2Cor before 2.10
        ("9999", OFFSETS, 1000, False),  # and since
        ("0400", {}, 0, True),
        ("0301", OFFSETS, 1000, False),
    ],
)
def test_the_metadata_says_the_constant(tmp_path, level, baseline, offsets, subtract, doubt):
    found = band_4(tmp_path, baseline, offsets, level=level)
    assert found is not None and found.subtract == subtract
    assert ("no constant" in found.remark) == doubt


def test_the_baseline_counts_only_without_metadata(tmp_path):
    assert band_4(tmp_path / "a", "0400", {}, main=False).subtract == 1000  # type: ignore[union-attr]
    assert band_4(tmp_path / "b", "0301", {}, main=False).subtract == 0  # type: ignore[union-attr]
    assert band_4(tmp_path / "c", "9999", {}, main=False) is None, "nothing says it"
    assert band_4(tmp_path / "d", "9999", OFFSETS, change=("</n1:General_Info>", "")) is None, "unreadable"


def test_a_tile_of_a_users_sen2cor_does_not_say_the_constant_either(tmp_path):
    for baseline in ("05.10", "99.99"):
        tile = TILE.format(baseline, "2022-07-01T10:45:12.024Z")
        assert band_4(tmp_path / baseline, "9999", {}, main=False, tile=tile) is None


def test_a_processing_by_a_user_is_not_the_latest(tmp_path):
    own, esa = (band_4(tmp_path, b, {}) for b in ("9999", "0209"))
    assert own is not None and esa is not None
    assert own.acquisition == esa.acquisition and own.processing < esa.processing


@pytest.mark.parametrize(
    "change",
    [
        ('band_id="3">-1000', 'band_id="3">1e400'),
        ('band_id="3">-1000', 'band_id="3">-1e300'),
        ('band_id="3">-1000', 'band_id="3">nan'),
        ('band_id="3">-1000', 'band_id="3">'),
        ('band_id="3">-1000', 'band_id="3">1000'),
        ('band_id="3"', 'band_id="²"'),
        ('band_id="3"', 'band_id="13"'),
        ('band_id="3"', f'band_id="{"9" * 5000}"'),
        ('band_id="3"', 'band="3"'),
        ('unit="none">10000<', 'unit="none">0<'),
        ('unit="none">10000<', 'unit="none">nan<'),
        ('unit="none">10000<', 'unit="none">1e400<'),
        ('unit="none">10000<', 'unit="none">1e-320<'),
        ("User_Product", "Other"),
    ],
)
def test_damaged_metadata_is_no_metadata(tmp_path, change):
    found = band_4(tmp_path, "0400", OFFSETS, change=change)
    assert found is not None and (found.subtract, found.scale) == (1000, 1.0)
    assert "MTD_MSIL2A.xml cannot be read" in found.remark
    assert band_4(tmp_path, "9999", OFFSETS, change=change) is None


TILE = (
    "<T><TILE_ID>S2A_OPER_MSI_L2A_TL_VGS2_20220701T170000_A036700_T32VNJ_N{}</TILE_ID>"
    "<SENSING_TIME>{}</SENSING_TIME></T>"
)


def test_a_granule_in_a_folder_of_any_name(tmp_path):
    tile = TILE.format("04.00", "2022-07-01T10:45:12.024Z")
    found = band_4(tmp_path, "0400", {}, main=False, tile=tile, inside="my granule")
    assert found is not None and found.subtract == 1000
    assert found.datetime == "2022-07-01T10:45:12Z"
    for other in (f"T32VNK_{TIME}", "T32VNJ_20220711T104031"):
        path = f"{tmp_path.as_posix()}/my granule/IMG_DATA/{other}_B04.jp2"
        assert recognise(path, ProductFiles()) is None, "a file of another tile or pass"


def test_a_time_of_the_tile_in_the_future_is_none(tmp_path):
    found = band_4(tmp_path, "0400", OFFSETS, tile=TILE.format("04.00", "2999-07-01T10:45:12Z"))
    assert found is not None
    assert (found.datetime, found.source) == ("2022-07-01T10:40:31Z", "metadata of the product (PRODUCT_START_TIME)")

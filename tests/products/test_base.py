"""The descriptions of products: complete, consistent, and those of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rs_embed.models import MODELS, get_model_info
from rs_embed.products import PRODUCTS, find_product

DOCS = Path(__file__).resolve().parents[2] / "docs" / "masks.md"


@pytest.mark.parametrize("name", PRODUCTS)
def test_bands_and_classes_are_consistent(name):
    product = PRODUCTS[name]
    assert product.collection == name
    names = [b.name for b in product.bands]
    assert len(set(names)) == len(names)
    aliases = [a for b in product.bands for a in b.aliases]
    assert len(set(aliases)) == len(aliases) and all(a == a.upper() for a in aliases)
    files = [b.file or b.name for b in product.bands]
    assert len(set(files)) == len(files)
    if product.quality:
        assert product.is_quality(product.quality.band)
        assert set(product.quality.default) <= set(product.quality.classes)
    assert all((b.scale, b.offset) == (1, 0) for b in product.bands if b.quality)


def test_the_collections_of_models_are_known_with_their_bands():
    for name in MODELS:
        for modality in get_model_info(name).modalities.values():
            product = find_product(modality.sensor.collection)
            assert product, modality.sensor.collection
            assert set(modality.sensor.bands) <= set(product.band), (name, modality.sensor.collection)


@pytest.mark.parametrize(
    ("collection", "alias", "band"),
    [
        ("LANDSAT/LC08/C02/T1_L2", "RED", "SR_B4"),
        ("LANDSAT/LT05/C02/T2_L2", "red", "SR_B3"),
        ("LANDSAT/LE07/C02/T1_L2", "NIR", "SR_B4"),
        ("LANDSAT/LC09/C02/T1", "NIR", "B5"),
        ("COPERNICUS/S2_HARMONIZED", "RE4", "B8A"),
        ("COPERNICUS/S2", "B8", "B8"),
        ("NASA/HLS/HLSL30/v002", "NIR", "B5"),
        ("NASA/HLS/HLSS30/v002", "NIR", "B8A"),
        ("MODIS/061/MYD09A1", "BLUE", "sur_refl_b03"),
    ],
)
def test_common_names_are_those_of_the_sensor(collection, alias, band):
    product = find_product(collection)
    assert product is not None and product.resolve_alias(alias) == band


def test_the_documentation_lists_the_classes():
    rows = [re.findall(r"`([^`]+)`", line) for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    described = {quality for row in rows for quality in row}
    for product in PRODUCTS.values():
        if product.quality:
            assert {product.quality.band, *product.quality.classes} <= described
    for line in DOCS.read_text().splitlines():
        for product in PRODUCTS.values():
            if product.quality and line.startswith("| ") and f"`{product.quality.band}`" in line:
                default, other = (set(re.findall(r"`([^`]+)`", cell)) for cell in line.split("|")[3:5])
                assert default == set(product.quality.default)
                assert default | other == set(product.quality.classes)

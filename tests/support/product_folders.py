"""Folders of satellite products in the layout of their providers, with tiny rasters: SAFE, Landsat
Collection 2, HLS, MODIS as GeoTIFF, Sentinel-1 RTC.

Each builder returns the pixels that it has written, by band of Earth Engine's collection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .rasters import ORIGIN, noise, write

#: Ground covered by every product, metres.
SIDE = 600
_L2A = {
    10: ("B02", "B03", "B04", "B08", "AOT", "WVP"),
    20: ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12", "AOT", "WVP", "SCL"),
    60: ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B09", "B11", "B12", "AOT", "WVP", "SCL"),
}
_L1C = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09", "B10"),
}
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def pixels_of(seed: int, metres: int, dtype="uint16", low=1, high=10000, hole=0) -> np.ndarray:
    """(H, W) random numbers with a corner of ``hole``, as outside a swath."""
    side = SIDE // metres
    values = np.random.default_rng(seed).integers(low, high, (side, side)).astype(dtype)
    values[: side // 4, : side // 4] = hole
    return values


def safe(
    folder: Path,
    *,
    level="L2A",
    time="20220701T104031",
    baseline="0400",
    tile="T32VNJ",
    satellite="S2A",
    processed="20220701T170000",
    suffix=".SAFE",
    driver="JP2OpenJPEG",
    cloud: float | None = 12.5,
    sensing: str | None = None,
    offsets: Mapping[str, int] | None = None,
    metadata=("product", "tile"),
    seed=0,
    corner=ORIGIN,
) -> tuple[Path, dict[str, np.ndarray]]:
    """A Sentinel-2 product as downloaded; (its folder, numbers of the files in the pixel size of
    each band).

    Args:
        offsets: ``BOA_ADD_OFFSET`` or ``RADIO_ADD_OFFSET`` by file name of the band; by default
            -1000 from baseline 04.00 on, and none before.
        metadata: which of the metadata files there are.
    """
    name = f"{satellite}_MSI{level}_{time}_N{baseline}_R008_{tile}_{processed}"
    root = folder / (name + suffix)
    granule = root / "GRANULE" / f"{level}_{tile}_A036700_{time[:9]}104027"
    recent = int(baseline) >= 400
    extension = "jp2" if driver.startswith("JP2") else "tif"
    lossless = (
        {"driver": driver, "QUALITY": 100, "REVERSIBLE": "YES"} if driver.startswith("JP2") else {"driver": driver}
    )
    found: dict[str, np.ndarray] = {}
    images = granule / "IMG_DATA"
    for metres, bands in (_L2A if level == "L2A" else _L1C).items():
        for i, band in enumerate((*bands, "TCI")):
            if band == "B01" and metres == 20 and not recent:
                continue
            in_folder, size = (images / f"R{metres}m", f"_{metres}m") if level == "L2A" else (images, "")
            path = in_folder / f"{tile}_{time}_{band}{size}.{extension}"
            if band == "TCI":
                if level == "L2A" or metres == 10:
                    write(
                        path,
                        np.full((3, SIDE // metres, SIDE // metres), 7, "uint8"),
                        scale=metres,
                        corner=corner,
                        **lossless,
                    )
                continue
            classes = {"dtype": "uint8", "high": 12} if band == "SCL" else {"low": 500 if recent else 1}
            values = pixels_of(seed * 1000 + metres * 20 + i, metres, **classes)
            write(path, values[None], scale=metres, corner=corner, **lossless)
            name_in_collection = band if band[0] != "B" or band == "B8A" else f"B{int(band[1:])}"
            native = {"B01": 60, "B09": 60, "B10": 60, "SCL": 20}.get(band, 20 if band in _L1C[20] else 10)
            if metres == native:
                found[name_in_collection] = values
    for mask in (
        "MSK_CLDPRB_20m",
        "MSK_SNWPRB_20m",
        "MSK_DETFOO_B02",
        "MSK_QUALIT_B8A",
        "MSK_CLASSI_B00",
        f"{tile}_{time}_PVI",
    ):
        write(
            granule / "QI_DATA" / f"{mask}.{extension}",
            np.ones((1, 30, 30), "uint8"),
            scale=20,
            corner=corner,
            **lossless,
        )
    (granule / "AUX_DATA").mkdir()
    (root / "DATASTRIP").mkdir()
    (root / "manifest.safe").write_text("<xfdu/>")
    if offsets is None:
        offsets = dict.fromkeys(BAND_IDS, -1000) if recent else {}
    if "product" in metadata:
        text = product_xml(root.name, level, baseline, time, cloud, offsets)
        (root / f"MTD_MSI{level}.xml").write_text(text)
    if "tile" in metadata:
        when = sensing or f"{time[:4]}-{time[4:6]}-{time[6:8]}T{time[9:11]}:{time[11:13]}:59.024Z"
        text = (
            '<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd"><n1:General_Info>'
            f'<TILE_ID metadataLevel="Brief">{satellite}_OPER_MSI_{level}_TL_VGS2_{processed}_A036700_{tile}_N{baseline[:2]}.{baseline[2:]}</TILE_ID>'
            f'<SENSING_TIME metadataLevel="Standard">{when}</SENSING_TIME></n1:General_Info></n1:Level-2A_Tile_ID>'
        )
        (granule / "MTD_TL.xml").write_text(text)
    return root, found


def product_xml(
    name: str, level: str, baseline: str, time: str, cloud: float | None, offsets: Mapping[str, int]
) -> str:
    element = "BOA_ADD_OFFSET" if level == "L2A" else "RADIO_ADD_OFFSET"
    listed = "".join(
        f'<{element} band_id="{i}">{offsets[b]}</{element}>' for i, b in enumerate(BAND_IDS) if b in offsets
    )
    when = f"{time[:4]}-{time[4:6]}-{time[6:8]}T{time[9:11]}:{time[11:13]}:{time[13:]}.024Z"
    quantification = (
        '<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>'
        if level == "L2A"
        else '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>'
    )
    clouds = "" if cloud is None else f"<Cloud_Coverage_Assessment>{cloud}</Cloud_Coverage_Assessment>"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/x.xsd"><n1:General_Info>'
        f"<Product_Info><PRODUCT_START_TIME>{when}</PRODUCT_START_TIME><PRODUCT_URI>{name.removesuffix('.SAFE')}.SAFE</PRODUCT_URI>"
        f"<PROCESSING_LEVEL>Level-{level[1:]}</PROCESSING_LEVEL><PROCESSING_BASELINE>{baseline[:2]}.{baseline[2:]}</PROCESSING_BASELINE>"
        f"</Product_Info><Product_Image_Characteristics>{quantification}<OFFSETS>{listed}</OFFSETS></Product_Image_Characteristics>"
        f"</n1:General_Info><n1:Quality_Indicators_Info>{clouds}</n1:Quality_Indicators_Info></n1:Level-2A_User_Product>"
    )


#: Layers of Landsat by sensor: level 1, and surface reflectance and temperature of level 2.
LANDSAT_LAYERS = {
    "LC08": (
        [*(f"B{i}" for i in range(1, 12)), "QA_PIXEL", "QA_RADSAT"],
        [*(f"SR_B{i}" for i in range(1, 8)), "SR_QA_AEROSOL", "QA_PIXEL", "QA_RADSAT"],
        ["ST_B10", "ST_ATRAN", "ST_CDIST", "ST_DRAD", "ST_EMIS", "ST_EMSD", "ST_QA", "ST_TRAD", "ST_URAD"],
    ),
    "LE07": (
        ["B1", "B2", "B3", "B4", "B5", "B6_VCID_1", "B6_VCID_2", "B7", "B8", "QA_PIXEL", "QA_RADSAT"],
        [*(f"SR_B{i}" for i in (1, 2, 3, 4, 5, 7)), "SR_ATMOS_OPACITY", "SR_CLOUD_QA", "QA_PIXEL", "QA_RADSAT"],
        ["ST_B6", "ST_ATRAN", "ST_CDIST", "ST_DRAD", "ST_EMIS", "ST_EMSD", "ST_QA", "ST_TRAD", "ST_URAD"],
    ),
}
LANDSAT_LAYERS |= {"LC09": LANDSAT_LAYERS["LC08"], "LT05": LANDSAT_LAYERS["LE07"], "LT04": LANDSAT_LAYERS["LE07"]}


def landsat(
    folder: Path,
    *,
    mission="LC08",
    level="L2SP",
    path_row="193021",
    day="20220701",
    processed="20220713",
    tier="T1",
    cloud: float | None = 3.21,
    metadata=("json", "xml", "txt"),
    seed=0,
    tags=True,
    corner=ORIGIN,
) -> tuple[Path, dict[str, np.ndarray]]:
    """A Landsat Collection 2 product as downloaded; (its folder, numbers of its files by band)."""
    name = f"{mission}_{level}_{path_row}_{day}_{processed}_02_{tier}"
    root = folder / name
    level_1, reflectance, temperature = LANDSAT_LAYERS[mission]
    layers = {"L2SP": reflectance + temperature, "L2SR": reflectance}.get(level, level_1)
    found = {}
    for i, layer in enumerate(layers):
        metres = 20 if layer == "B8" and mission != "LT05" else 30
        made: dict = {"high": 40000}
        if layer in ("QA_PIXEL", "QA_RADSAT"):
            made = {"high": 30000, "hole": int(layer == "QA_PIXEL")}
        elif "QA" in layer and layer.startswith("SR"):
            made = {"dtype": "uint8", "high": 250}
        elif (layer.startswith("ST_") and "_B" not in layer) or layer == "SR_ATMOS_OPACITY":
            made = {"dtype": "int16", "high": 3000, "hole": -9999}
        values = pixels_of(seed * 100 + i, metres, **made)
        nodata = {"nodata": made.get("hole", 0)} if tags and "QA" not in layer else {}
        write(root / f"{name}_{layer}.TIF", values[None], scale=metres, corner=corner, **nodata)
        found[layer] = values
    for band in ("B1", "B6_VCID_1") if mission == "LE07" else ():
        write(root / "gap_mask" / f"{name}_GM_{band}.TIF", np.ones((1, 20, 20), "uint8"), scale=30, corner=corner)
    for angle in ("SAA", "SZA", "VAA", "VZA") if level.startswith("L1") else ():
        write(root / f"{name}_{angle}.TIF", pixels_of(1, 30)[None], scale=30, corner=corner)
    (root / f"{name}_ANG.txt").write_text("GROUP = FILE_HEADER\nEND_GROUP = FILE_HEADER\nEND\n")
    (root / f"{name}_thumb_small.jpeg").write_bytes(b"\xff\xd8\xff\xe0")
    fields = {"DATE_ACQUIRED": f"{day[:4]}-{day[4:6]}-{day[6:]}", "SCENE_CENTER_TIME": "10:15:53.7219640Z"}
    fields |= {} if cloud is None else {"CLOUD_COVER": f"{cloud}"}
    product = {"LANDSAT_PRODUCT_ID": name, "PROCESSING_LEVEL": level}
    groups = {"PRODUCT_CONTENTS": product, "IMAGE_ATTRIBUTES": fields}
    if "json" in metadata:
        (root / f"{name}_MTL.json").write_text(json.dumps({"LANDSAT_METADATA_FILE": groups}))
    if "xml" in metadata:
        inner = "".join(
            f"<{g}>" + "".join(f"<{k}>{v}</{k}>" for k, v in f.items()) + f"</{g}>" for g, f in groups.items()
        )
        (root / f"{name}_MTL.xml").write_text(f"<LANDSAT_METADATA_FILE>{inner}</LANDSAT_METADATA_FILE>")
    if "txt" in metadata:
        lines = [
            line
            for g, f in groups.items()
            for line in (f"  GROUP = {g}", *(f'    {k} = "{v}"' for k, v in f.items()), f"  END_GROUP = {g}")
        ]
        (root / f"{name}_MTL.txt").write_text("\n".join(["GROUP = LANDSAT_METADATA_FILE", *lines, "END"]) + "\n")
    return root, found


_HLS = {
    "L30": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11"],
    "S30": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"],
}


def hls(
    folder: Path,
    *,
    sensor="S30",
    tile="T32VNJ",
    time="2022182T104031",
    cloud: int | None = 7,
    seed=0,
    tags=True,
    own_folder=True,
) -> tuple[Path, dict[str, np.ndarray]]:
    """An HLS granule as downloaded; (its folder, numbers of its files by band)."""
    name = f"HLS.{sensor}.{tile}.{time}.v2.0"
    root = folder / name if own_folder else folder
    found = {}
    for i, layer in enumerate(_HLS[sensor]):
        values = pixels_of(seed * 100 + i, 30, "int16", -50, 9000, hole=-9999)
        write(root / f"{name}.{layer}.tif", values[None], scale=30, **({"nodata": -9999} if tags else {}))
        found[layer if layer == "B8A" else f"B{int(layer[1:])}"] = values
    found["Fmask"] = pixels_of(seed * 100 + 50, 30, "uint8", 0, 200, hole=255)
    write(root / f"{name}.Fmask.tif", found["Fmask"][None], scale=30, **({"nodata": 255} if tags else {}))
    for angle in ("SAA", "SZA", "VAA", "VZA"):
        write(root / f"{name}.{angle}.tif", pixels_of(1, 30)[None], scale=30)
    (root / f"{name}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    if cloud is not None:
        attributes = "".join(
            f"<AdditionalAttribute><Name>{n}</Name><Values><Value>{v}</Value></Values></AdditionalAttribute>"
            for n, v in (("SPATIAL_COVERAGE", 100), ("CLOUD_COVERAGE", cloud))
        )
        text = f"<Granule><AdditionalAttributes>{attributes}</AdditionalAttributes></Granule>"
        (root / f"{name}.cmr.xml").write_text(text)
    return root, found


def modis(
    folder: Path, *, product="MOD09A1", day="2022177", form="planetary", version="061", seed=0
) -> dict[str, np.ndarray]:
    """GeoTIFFs of a MODIS product: as the Planetary Computer has them, of AppEEARS, or translated
    from the HDF file; numbers by band."""
    daily = product.endswith("GA")
    layers = {f"sur_refl_b0{i}": f"sur_refl_b0{i}" for i in range(1, 8)}
    layers |= {"state_1km": "state_1km"} if daily else {"StateQA": "sur_refl_state_500m"}
    auxiliary = ["QC_500m_1", "num_observations_1km"] if daily else ["sur_refl_qc_500m", "sur_refl_day_of_year"]
    name = f"{product}.A{day}.h18v03.{version}.{day}123456"
    found = {}
    for i, (band, layer) in enumerate([*layers.items(), *((a, a) for a in auxiliary)]):
        suffix = "_1" if daily and form != "planetary" and layer in layers else ""
        file = {
            "planetary": f"{name}_{layer}.tif",
            "appeears": f"{product}.{version}_{layer}{suffix}_doy{day}_aid0001.tif",
            "translated": f"{name}.{layer}{suffix}.tif",
        }[form]
        kind = (
            {"dtype": "int16", "high": 9000, "hole": -28672}
            if i < 7
            else {"dtype": "uint16", "high": 900, "hole": 65535}
        )
        values = pixels_of(seed * 100 + i, 30, **kind)
        write(folder / file, values[None], scale=30)
        if band in layers:
            found[band] = values
    return found


def hyp3(
    folder: Path, *, units="p", gamma="g", time="20220701T053424", seed=0, bands=("VV", "VH")
) -> dict[str, np.ndarray]:
    """A product of HyP3 RTC; numbers by band."""
    name = f"S1A_IW_{time}_DVP_RTC20_G_{gamma}{units}uned_FD6A"
    found = {}
    for i, band in enumerate(bands):
        values = noise(seed * 10 + i, (1, SIDE // 20, SIDE // 20), "float32") / (-1000 if units == "d" else 10000)
        values[0, :5, :5] = 0
        write(folder / name / f"{name}_{band}.tif", values.astype("float32"), scale=20)
        found[band] = values[0].astype("float32")
    for other, dtype in (
        ("ls_map", "uint8"),
        ("inc_map", "float32"),
        ("dem", "int16"),
        ("area", "float32"),
        ("rgb", "uint8"),
    ):
        shape = (3 if other == "rgb" else 1, SIDE // 20, SIDE // 20)
        write(folder / name / f"{name}_{other}.tif", np.ones(shape, dtype), scale=20)
    (folder / name / f"{name}.README.md.txt").write_text("RTC\n")
    return found


def opera(folder: Path, *, time="20220701T053424", processed="20230915T120000", seed=0) -> dict[str, np.ndarray]:
    """A burst of OPERA RTC-S1; numbers by band, with NaN outside."""
    name = f"OPERA_L2_RTC-S1_T022-045678-IW1_{time}Z_{processed}Z_S1A_30_v1.0"
    found = {}
    for i, band in enumerate(("VV", "VH")):
        values = (noise(seed * 10 + i, (1, SIDE // 30, SIDE // 30)) / 10000).astype("float32")
        values[0, :3, :3] = np.nan
        tags = {"ORBIT_PASS_DIRECTION": "descending"}
        write(folder / f"{name}_{band}.tif", values, scale=30, nodata=float("nan"), tags=tags)
        found[band] = values[0]
    write(folder / f"{name}_mask.tif", np.ones((1, SIDE // 30, SIDE // 30), "uint8"), scale=30)
    for layer in ("incidence_angle", "local_incidence_angle", "mask", "number_of_looks", "rtc_anf_gamma0_to_beta0"):
        path = folder / f"OPERA_L2_RTC-S1-STATIC_T022-045678-IW1_20140403_S1A_30_v1.0_{layer}.tif"
        write(path, np.ones((1, SIDE // 30, SIDE // 30), "float32"), scale=30)
    return found


def planetary_rtc(
    folder: Path, *, time="20220701T053424", seed=0, bands: Sequence[str] = ("vv", "vh"), end="_60B6"
) -> dict[str, np.ndarray]:
    """Sentinel-1 RTC in the layout of the Planetary Computer, whose folders have the name of the
    GRD product (with ``end="_rtc"``: the name of the item); numbers by band."""
    name = f"S1A_IW_GRDH_1SDV_{time}_{time[:9]}053449_043904_053DC9{end}"
    found = {}
    for i, band in enumerate(bands):
        values = (noise(seed * 10 + i) / 10000).astype("float32")[:1]
        values[0, :5, :5] = -32768
        write(folder / name / "measurement" / f"iw-{band}.rtc.tiff", values)
        found[band.upper()] = values[0]
    return found


def ground_range_safe(folder: Path) -> Path:
    """A Sentinel-1 GRD product: amplitude in radar geometry, located by ground control points."""
    import rasterio
    from rasterio.control import GroundControlPoint

    root = folder / "S1A_IW_GRDH_1SDV_20220701T053424_20220701T053449_043904_053DC9_A1B2.SAFE"
    for number, band in (("001", "vv"), ("002", "vh")):
        path = root / "measurement" / f"s1a-iw-grd-{band}-20220701t053424-20220701t053449-043904-053dc9-{number}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        corners = [GroundControlPoint(r, c, 9.8 + c / 1e4, 57.3 - r / 1e4) for r in (0, 59) for c in (0, 59)]
        profile = {"driver": "GTiff", "count": 1, "height": 60, "width": 60, "dtype": "uint16"}
        with rasterio.open(path, "w", gcps=corners, crs="EPSG:4326", **profile) as file:
            file.write(noise(0)[:1])
    (root / "manifest.safe").write_text("<xfdu/>")
    return root

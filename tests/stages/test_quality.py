"""What is reported about the numbers of an input, kind by kind; of pixels with data only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rs_embed import ExportModelRequest, SensorSpec
from rs_embed.models import get_model_info
from rs_embed.planning.units import check_model
from rs_embed.providers.composite import composite_frames
from rs_embed.stages.shared.quality import KINDS, assess_input, kinds_of

from ..support import factories

RNG = np.random.default_rng(7)
S1_DB, S1_POWER = "COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"
S1_BANDS = ("VV", "VH")
RGBN = ("B2", "B3", "B4", "B8")


def dn(shape=(4, 40, 40), dtype="uint16"):
    return RNG.integers(200, 4000, shape).astype(dtype)


def reflectance(shape=(4, 40, 40)):
    return RNG.uniform(0.01, 0.6, shape).astype(np.float32)


def decibel(shape=(2, 40, 40)):
    return RNG.normal(-14, 4, shape).astype(np.float32)


def power(shape=(2, 40, 40)):
    return (10 ** (decibel(shape) / 10)).astype(np.float32)


def unit_of(model="mosaiks", sensor=None, modality=None, **options):
    """What the quality record reads of a unit."""
    asked = ExportModelRequest(model, sensor=sensor, modality=modality, model_config=options or None)
    request = factories.request(models=[asked])
    settings = check_model(request.models[0], request, get_model_info(model))
    return SimpleNamespace(
        model=settings.info.id,
        label=settings.label,
        modality=settings.modality,
        sensor=settings.sensor,
        options=settings.options,
    )


def assess(pixels, unit=None, *, coverage=1.0, fill=0.0, notes=(), roi=None, embedded=False, provenance=None):
    unit = unit or unit_of()
    shares = coverage if isinstance(coverage, tuple) else (coverage,) * len(unit.sensor.bands)
    chip = {"valid": sum(shares) / len(shares), "coverage": dict(zip(unit.sensor.bands, shares)), "warnings": notes}
    chip |= {"roi": roi} if roi else {}
    chip |= {"provenance": provenance or {}}
    run = SimpleNamespace(plan=SimpleNamespace(embedded_units=(unit,) if embedded else ()))
    quality = assess_input(run, unit, pixels, chip, fill)
    assert set(quality.get("kinds", ())) <= set(KINDS)
    assert bool(quality.get("kinds")) == bool(quality.get("warnings"))
    return quality


def thor(modality):
    return unit_of("thor", modality=modality, weights="random")


BANDS_OF_THOR = 10

UNREMARKABLE = {
    "DN": (dn(), {}),
    "DN in floats, as a median": (dn(dtype="float32") + np.float32(0.5), {}),
    "dark water": (RNG.integers(1, 90, (4, 40, 40)).astype("uint16"), {}),
    "several frames": (dn((3, 4, 40, 40)), {}),
    "one pixel": (dn((4, 1, 1)), {}),
    "few bright roofs": (np.where(RNG.random((4, 40, 40)) < 0.005, 65535, dn()).astype("uint16"), {}),
    "DN of a fixed order of bands": (dn((BANDS_OF_THOR, 40, 40)), {"unit": thor("s2")}),
    "linear power": (power(), {"unit": thor("s1")}),
    "reflectance with its factor": (reflectance(), {"unit": unit_of(input_scale=1.0)}),
    "dB with a factor": (
        decibel(),
        {"unit": unit_of(sensor=SensorSpec(S1_DB, S1_BANDS), input_scale=0.05)},
    ),
    "power with a factor": (power(), {"unit": unit_of(sensor=SensorSpec(S1_POWER, S1_BANDS), input_scale=1.0)}),
}


@pytest.mark.parametrize("name", UNREMARKABLE)
def test_usual_numbers_have_no_warning(name):
    pixels, options = UNREMARKABLE[name]
    assert assess(pixels, **options) == {"valid": 1.0}


WRONG = {
    "reflectance": (reflectance(), unit_of(), "at most 2, like reflectance, and mosaiks takes DN"),
    "reflectance with one defect": (
        np.where(RNG.random((4, 40, 40)) < 0.005, 65535, reflectance()).astype("float32"),
        unit_of(),
        "like reflectance",
    ),
    "reflectance for thor": (reflectance((BANDS_OF_THOR, 40, 40)), thor("s2"), "and thor takes DN"),
    "DN for reflectance": (dn(), unit_of(input_scale=1.0), "above 6.5535"),
    "far below a factor": (reflectance() / 1e6, unit_of(input_scale=1.0), "far below its scale"),
    "8 bits": (RNG.integers(0, 256, (4, 40, 40)).astype("uint8"), unit_of(), "8-bit"),
    "far above DN": (dn().astype("float64") * 1e4, unit_of(), "above 65535"),
    "dB for power": (decibel(), thor("s1"), "like decibel, and thor reads linear power"),
    "amplitudes for power": (dn((2, 40, 40)), thor("s1"), "like amplitudes"),
    "power for dB": (
        power(),
        unit_of(sensor=SensorSpec(S1_DB, S1_BANDS), input_scale=0.05),
        "like linear power, and mosaiks reads dB",
    ),
    "dB with the factor of DN": (decibel(), unit_of(sensor=SensorSpec(S1_DB, S1_BANDS)), "the values are in dB"),
    "power with the factor of DN": (
        power(),
        unit_of(sensor=SensorSpec(S1_POWER, S1_BANDS)),
        "the values are in linear power",
    ),
    "dB under another name": (decibel(), unit_of(sensor=SensorSpec("my radar", S1_BANDS)), "in dB, or negative"),
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_of_another_unit_of_measure(name):
    pixels, unit, words = WRONG[name]
    quality = assess(pixels, unit)
    assert quality["kinds"] == ["wrong_units"]
    (sentence,) = quality["warnings"]
    assert words in sentence


@pytest.mark.parametrize("fill", [0.0, -9999.0])
@pytest.mark.parametrize("scaled", [True, False])
def test_numbers_are_those_of_pixels_with_data(fill, scaled):
    """The verdict does not depend on the pixels without data, whatever number they have."""
    pixels = reflectance() if scaled else dn(dtype="float32")
    pixels[:, :, :16] = fill  # 40 % of the pixels
    quality = assess(pixels, coverage=0.6, fill=fill)
    assert quality["kinds"] == ["partly_filled", *(["wrong_units"] if scaled else [])]
    assert quality["warnings"][0] == "40.0 % of the pixels have no data"


def test_a_constant_band_beside_missing_pixels_is_constant():
    pixels = dn()
    pixels[1] = 700
    pixels[:, :10] = 0
    quality = assess(pixels, coverage=0.75)
    assert quality["constant_bands"] == ["B3"]
    assert quality["kinds"] == ["partly_filled", "constant_bands"]
    whole = assess(np.where(pixels == 700, 0, pixels), coverage=(0.75, 0.0, 0.75, 0.75))
    assert whole["constant_bands"] == ["B3"] and "bands without data: B3" in whole["warnings"]
    one = dn()
    one[:, 0], one[:, :, 1:] = 5, 0
    one[:, 1:] = 0
    assert "constant_bands" not in assess(one, coverage=1 / 1600), "one pixel with data is constant, but no sign"


def test_zeros_are_data_or_no_data_as_the_coverage_says():
    empty = np.zeros((4, 40, 40), np.uint16)
    for coverage in (1.0, 0.75):
        quality = assess(empty, coverage=coverage)
        assert "every value is 0, as in pixels without data" in quality["warnings"]
        assert quality["constant_bands"] == list(RGBN)
    swath = dn()
    swath[:, :24] = 0  # 60 % of the pixels, and the file does not declare a nodata value
    quality = assess(swath)
    assert quality["kinds"] == ["zeros"] and quality["warnings"][0].startswith("60.0 % of the values of every band")
    assert assess(swath, coverage=0.4)["kinds"] == ["mostly_empty"], "the same pixels with a nodata value"
    shadow = dn()
    shadow[:, :8] = 0
    assert assess(shadow) == {"valid": 1.0}
    decibels = decibel()
    decibels[:, :24] = 0
    unit = unit_of(sensor=SensorSpec(S1_DB, S1_BANDS), input_scale=0.05)
    assert assess(decibels, unit) == {"valid": 1.0}, "0 dB is a number like any other"


@pytest.mark.parametrize(
    ("dtype", "number", "collection"),
    [
        ("uint16", 65535, None),
        ("float32", 65535, None),
        ("uint16", 64535, None),  # without the constant of processing baseline 04.00
        ("int16", 32767, None),
        ("uint16", 65535, "my rasters"),
    ],
)
def test_saturated_numbers(dtype, number, collection):
    unit = unit_of(sensor=SensorSpec(collection, RGBN)) if collection else unit_of()
    for share, warned in ((0.05, True), (0.005, False)):
        pixels = dn(dtype=dtype)
        pixels[2][RNG.random((40, 40)) < share] = number
        quality = assess(pixels, unit)
        assert quality.get("kinds") == (["saturated"] if warned else None)
    pixels = dn(dtype=dtype)
    pixels[2, :20] = 0
    pixels[2, 20:25] = number
    quality = assess(pixels, unit, coverage=(1.0, 1.0, 0.5, 1.0))
    assert "saturated values: B4 (25.0 %)" in quality["warnings"], "a quarter of the pixels with data"


def test_numbers_that_are_not_finite_are_a_share_of_those_with_data():
    pixels = dn(dtype="float32")
    pixels[:, :20] = -1
    pixels[:, 20:30] = np.nan
    quality = assess(pixels, coverage=0.5, fill=-1.0)
    assert "50.0 % of the values are not finite" in quality["warnings"] and "not_finite" in quality["kinds"]
    assert "constant_bands" not in quality
    assert assess(np.full((4, 9, 9), np.inf, np.float32))["constant_bands"] == list(RGBN)


def test_a_roi_mostly_outside_the_imagery_has_its_own_sentence():
    pixels = dn()
    pixels[:, :, 2:] = 0
    quality = assess(pixels, coverage=0.05)
    assert quality["kinds"] == ["mostly_empty"]
    assert quality["warnings"] == [
        "only 5.0 % of the ROI has data: most of it lies outside the imagery; choose a longer window, other imagery or "
        "another place"
    ]
    masked = assess(pixels, coverage=0.05, provenance={"mask": {"kind": "clouds"}})
    assert "or the mask removes it" in masked["warnings"][0]
    assert assess(dn(), coverage=0.5)["kinds"] == ["partly_filled"], "half is not less than half"


def test_of_a_box_in_its_square_the_box_counts():
    square = dn()
    square[:, :, 30:] = 0  # the east is missing, 25 %
    box = (0.0, 1.0, 0.75, 1.0)  # and the box is in the east
    assert assess(square, coverage=0.75, roi=box)["kinds"] == ["mostly_empty"]
    assert "only 0.0 % of the ROI" in assess(square, coverage=0.75, roi=box)["warnings"][0]
    assert assess(square, coverage=0.75, roi=(0.0, 1.0, 0.0, 0.25))["kinds"] == ["partly_filled"]
    assert assess(square, coverage=1.0, roi=box) == {"valid": 1.0}, "zeros that the provider counts as data"
    square[:, :, 10:] = 0
    sentence = assess(square, coverage=0.25, roi=(0.0, 1.0, 0.0, 0.25))["warnings"][0]
    assert sentence.startswith("only 25.0 % of the square around the ROI")


def test_substituted_frames_are_told_from_other_notes_of_a_provider():
    image = (dn(), np.ones((4, 40, 40), bool))
    bins = [("2022-06-01", "2022-07-01"), ("2022-07-01", "2022-08-01")]
    *_, sentences = composite_frames(bins, [["a"], []], lambda number: image, lambda: image, 4)
    quality = assess(dn((2, 4, 40, 40)), notes=[*sentences[0], "2 images have no band SCL"])
    assert quality["kinds"] == ["substituted_frames", "imagery_note"]
    assert quality["warnings"][0].startswith("frame 1 (2022-07-01..2022-08-01) has no imagery")


def test_random_weights_are_reported_where_they_are_used():
    assert assess(dn((BANDS_OF_THOR, 40, 40)), thor("s2"), embedded=True)["kinds"] == ["random_weights"]
    assert assess(dn((BANDS_OF_THOR, 40, 40)), thor("s2")) == {"valid": 1.0}, "pixels alone use no weights"
    assert assess(dn(), embedded=True) == {"valid": 1.0}, "those of mosaiks are random by design"


def test_kinds_of_records_of_earlier_versions():
    assert kinds_of(None) == kinds_of({"valid": 1.0}) == ()
    assert kinds_of({"valid": 0.5, "warnings": ["50.0 % of the pixels have no data"]}) == ("imagery_note",)
    assert kinds_of({"valid": 0.5, "warnings": ["a", "b"], "kinds": ["zeros"]}) == ("zeros",)

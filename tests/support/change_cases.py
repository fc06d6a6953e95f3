"""The change matrix as data: what is changed in a finished request, and what may be made. Rows of
docs/reliability.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .exports import places

S2 = "COPERNICUS/S2_SR_HARMONIZED"
RGB = {"collection": S2, "bands": ["B4", "B3", "B2"]}
SPOTS = places(9)


def roi(name: str, spot: int) -> dict:
    place = SPOTS[spot]
    return {"name": name, "lon": place.lon, "lat": place.lat, "buffer_m": place.buffer_m}


def model(label: str, features: int, **more: object) -> dict:
    return {"name": "mosaiks", "label": label, "model_config": {"features": features}, **more}


def base() -> dict:
    """Six places, two models that read the same three bands, chunks of two, with a store that
    keeps everything; without its target."""
    return {
        "rois": [roi(name, spot) for spot, name in enumerate("abcdef")],
        "temporal": {"start": "2022-06-01", "end": "2022-09-01"},
        "models": [model("rgb", 4, sensor=RGB), model("small", 2, sensor=RGB)],
        "backend": "sample",
        "export": {"chunk_size": 2, "cores": 2, "show_progress": False, "keep_work": "all"},
    }


@dataclass(frozen=True)
class Change:
    """One row.

    Attributes:
        what: in words. edit: changes the request in place.
        chips, embeddings: objects that are made; all others are left alone.
        steps: jobs by rule, combined. per_item: the same with one file per ROI, where it differs.
    """

    what: str
    edit: Callable[[dict], object]
    chips: int = 0
    embeddings: int = 0
    steps: dict[str, int] | None = None
    per_item: dict[str, int] | None = None


def of(*numbers: int) -> dict[str, int]:
    """Counts of fetch, embed, write and merge jobs."""
    return {rule: n for rule, n in zip(("fetch", "embed", "write", "merge"), numbers) if n}


def add_roi(at: int) -> Callable[[dict], object]:
    return lambda r: r["rois"].insert(at, roi("new", 6))


def duplicate_roi(of_: int, at: int) -> Callable[[dict], object]:
    return lambda r: r["rois"].insert(at, {**r["rois"][of_], "name": "twin"})


def delete_roi(at: int) -> Callable[[dict], object]:
    return lambda r: r["rois"].pop(at)


def move_roi(from_: int, to: int) -> Callable[[dict], object]:
    return lambda r: r["rois"].insert(to, r["rois"].pop(from_))


def add_model(added: dict) -> Callable[[dict], object]:
    return lambda r: r["models"].append(added)


def option(**options: object) -> Callable[[dict], object]:
    return lambda r: r["export"].update(options)


CHANGES = [
    Change("nothing", lambda r: None, steps={}),
    Change("a new ROI at the top", add_roi(0), 1, 2, of(4, 8, 4, 1)),
    Change("a new ROI in the middle", add_roi(3), 1, 2, of(3, 6, 3, 1)),
    Change("a new ROI at the end", add_roi(6), 1, 2, of(1, 2, 1, 1)),
    Change("the first ROI deleted", delete_roi(0), steps=of(3, 6, 3, 1)),
    Change("a ROI in the middle deleted", delete_roi(3), steps=of(2, 4, 2, 1)),
    Change("the last ROI deleted", delete_roi(5), steps=of(1, 2, 1, 1)),
    Change("the first ROI twice", duplicate_roi(0, 0), steps=of(4, 8, 4, 1)),
    Change("a ROI twice, again in the middle", duplicate_roi(0, 3), steps=of(3, 6, 3, 1)),
    Change("a ROI twice, again at the end", duplicate_roi(0, 6), steps=of(1, 2, 1, 1)),
    Change("the order reversed", lambda r: r["rois"].reverse(), steps=of(3, 6, 3, 1)),
    Change("the first ROI moved to the end", move_roi(0, 5), steps=of(3, 6, 3, 1)),
    Change("the two ROIs of one chunk swapped", move_roi(2, 3), steps=of(1, 2, 1, 1)),
    Change("a ROI of another size", lambda r: r["rois"][3].update(buffer_m=170), 1, 2, of(1, 2, 1, 1)),
    Change(
        *("one ROI gets a window of its own", lambda r: r["rois"][3].update(start="2022-06-01", end="2022-08-01")),
        *(1, 2, of(1, 2, 1, 1)),
    ),
    Change("another window for all", lambda r: r["temporal"].update(end="2022-08-01"), 6, 12, of(3, 6, 3, 1)),
    Change("a third model that reads the same bands", add_model(model("more", 6, sensor=RGB)), 0, 6, of(0, 3, 3, 1)),
    Change("a third model with one more band", add_model(model("all", 6)), 6, 6, of(3, 9, 3, 1)),
    Change(
        "a third model with other pixels", add_model(model("coarse", 6, fetch={"scale_m": 20})), 6, 6, of(3, 3, 3, 1)
    ),
    Change("a model removed", lambda r: r["models"].pop(), steps=of(0, 0, 3, 1)),
    Change("the order of the models", lambda r: r["models"].reverse(), steps=of(0, 0, 3, 1)),
    Change("an option of one model", lambda r: r["models"][1]["model_config"].update(features=6), 0, 6, of(0, 3, 3, 1)),
    Change("a label", lambda r: r["models"][1].update(label="other"), steps=of(0, 0, 3, 1)),
    Change("a name", lambda r: r["rois"][3].update(name="other"), steps=of(0, 0, 0, 1), per_item=of(0, 0, 1, 1)),
    Change("another `chunk_size`", option(chunk_size=3), steps=of(2, 4, 2, 1)),
    Change("pixels not saved", option(save_inputs=False), steps=of(0, 0, 3, 1)),
    Change("`infer_batch_size`", option(infer_batch_size=1), steps={}),
    Change("`num_workers`", option(num_workers=1), steps={}),
    Change("`cores`", option(cores=1), steps={}),
    Change("`continue_on_error`", option(continue_on_error=True), steps={}),
    Change(
        "`device` (recorded in manifests)",
        lambda r: r.update(device="cpu"),
        steps=of(0, 0, 0, 1),
        per_item=of(0, 0, 3, 1),
    ),
    Change("the other file format", option(format="netcdf"), steps=of(3, 6, 3, 1), per_item=of(0, 0, 3, 1)),
    Change("the folder moved elsewhere", lambda r: r.update(moved=True), steps={}),
    Change("the other layout, at another path", lambda r: r.update(relayout=True), steps=of(3, 6, 3, 1)),
]

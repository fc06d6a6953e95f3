"""The metadata of the rasters of a folder, for the first draft of its catalogue: products as they
are delivered, by their conventions; other rasters, by their metadata and names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import ProviderError
from ...products import Delivered, ProductFiles, Unused, recognise, sentinel2
from ...products.delivery import percent
from . import raster_io
from .file_names import AMBIGUOUS, SIZE, find_time, parse_band

SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
#: Files that hold rasters and are not read, with the way out.
_CONTAINERS = {
    (".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".7z", ".rar"): "is packed; allowed: its unpacked content",
    (
        ".hdf",
        ".he4",
        ".hdf4",
    ): "is HDF4, which rasterio does not read; allowed: GeoTIFFs of its layers (gdal_translate)",
    (".h5", ".he5", ".hdf5", ".nc", ".nc4"): "is HDF5 or netCDF; allowed: GeoTIFFs of its layers (gdal_translate)",
}


@dataclass
class Remarks:
    """Sentences for the user.

    Attributes:
        left_out: about files that are not in the catalogue.
        doubts: about files that are.
    """

    left_out: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ScannedFile:
    """One raster of a folder.

    Attributes:
        path: relative to the folder, with ``/``.
        bands: names from the product, the file's descriptions or its name; () where they are
            missing or not unique.
        count: number of bands.
        datetime: ISO text, or None where it is not known.
        where: where it was found, or "several dates", or "".
        scene: id of the image that a file of one band belongs to; its path for other files.
        named: the band comes from the file's name.
        product: what the conventions of its product say, or None.
        nodata: nodata value for the catalogue; None for that of the file.
        alpha: a remark on a band that is marked as alpha, or "".
    """

    path: str
    bands: tuple[str, ...]
    count: int
    datetime: str | None
    where: str
    scene: str
    named: bool = False
    product: Delivered | None = None
    nodata: float | None = None
    alpha: str = ""

    @property
    def kind(self) -> tuple:
        """Files of one kind are in one folder and have the same bands, or each a band in its
        name."""
        if self.product:
            return self.product.collection, 0, "product"
        return os.path.dirname(self.path), self.count, "named" if self.named else self.bands


def scan_folder(folder: str) -> tuple[list[ScannedFile], Remarks]:
    """Every raster below a folder that is imagery, by path, and remarks.

    Raises:
        ProviderError: the folder does not exist, or contains no raster.
    """
    if not os.path.isdir(folder):
        raise ProviderError(
            f"catalogue: {folder!r} is not a folder{_describe_file(folder)}; allowed: a folder of rasters"
        )
    files, base = ProductFiles(), os.path.abspath(folder).replace(os.sep, "/")
    remarks = Remarks()
    rasters = _list_rasters(folder, remarks.left_out)
    delivered: dict[str, Delivered] = {}
    unused: list[tuple[str, Unused]] = []
    for path in rasters:
        known = recognise(f"{base}/{path}", files)
        if isinstance(known, Unused):
            unused.append((path, known))
        elif known is not None:
            delivered[path] = known
    used, others = _open_products(folder, _latest(folder, delivered, remarks.left_out), remarks)
    remarks.left_out += _describe_unused(unused)
    skipped = {path for path, _ in unused} | set(delivered)
    found = []
    for path in [p for p in rasters if p not in skipped] + others:
        try:
            found.append(_scan_file(folder, path))
        except ProviderError as error:
            remarks.left_out.append(str(error))
    found = _date_scenes(_keep_finest(found, remarks.left_out))
    if not found and not used:
        why = f": {remarks.left_out[0]}" if remarks.left_out else f" (looked for {', '.join(SUFFIXES)})"
        raise ProviderError(f"catalogue: {folder!r} has no usable raster{why}")
    return sorted(used + found, key=lambda f: f.path), remarks


def _describe_file(path: str) -> str:
    """The part of a message about a file where a folder is expected."""
    if not os.path.isfile(path):
        return ""
    lower = path.lower()
    if lower.endswith(SUFFIXES):
        return " but a raster"
    return next(
        (f" but a file that {w.partition(';')[0]}" for e, w in _CONTAINERS.items() if lower.endswith(e)), " but a file"
    )


# products ----------------------------------------------------------------------------------------


def _latest(folder: str, delivered: dict[str, Delivered], refused: list[str]) -> dict[str, Delivered]:
    """The products without other processings of the same images: two processings of one image are
    not two images. The latest one counts, unless it lacks bands that another one has."""
    images: dict[tuple[str, str], dict[tuple[str, ...], list[str]]] = {}
    for path, product in delivered.items():
        if product.acquisition:
            processings = images.setdefault((product.collection, product.acquisition), {})
            processings.setdefault(product.processing, []).append(path)
    dropped: set[str] = set()
    for processings in images.values():
        if len(processings) == 1:
            continue
        bands = {p: _readable_bands(folder, paths, delivered) for p, paths in processings.items()}
        used = max(processings, key=lambda p: (len(bands[p]), p))
        best = max(processings)
        if bands[best] >= bands[used]:
            used = best
        scene = delivered[processings[used][0]].scene
        for other, paths in processings.items():
            if other == used:
                continue
            dropped.update(paths)
            lacking = sorted(bands[used] - bands[other])
            if other < used:
                why = (
                    f"the same image was processed again later ({scene})"
                    if any(other)
                    else f"{scene} is the same image"
                )
            else:
                why = f"it lacks {', '.join(lacking)} of {scene}, another processing of the same image, which is used"
            for name, number in Counter(delivered[path].scene for path in paths).items():
                refused.append(f"{name}, {count_of(number, 'file')}: {why}")
    return {path: product for path, product in delivered.items() if path not in dropped}


def _readable_bands(folder: str, paths: Sequence[str], delivered: Mapping[str, Delivered]) -> set[str]:
    """The bands of the files that are as delivered and can be read."""
    bands: set[str] = set()
    for path in paths:
        try:
            made = _open_product(folder, path, delivered[path])
        except ProviderError:  # said where the product is used; if it is not, the file has no part
            continue
        bands.update(() if isinstance(made, str) else made.bands)
    return bands


def _open_products(
    folder: str, delivered: dict[str, Delivered], remarks: Remarks
) -> tuple[list[ScannedFile], list[str]]:
    """The files of products, one for each band: of several copies the one in the pixel size of the
    instrument; and the paths of files that are not as delivered."""
    copies: dict[tuple[str, str, str], list[str]] = {}
    for path, product in sorted(delivered.items(), key=lambda p: (p[1].copy, p[0])):
        several = product.band or path  # a file of several bands has no copies
        copies.setdefault((product.collection, product.scene, several), []).append(path)
    used, others, more = [], [], Counter[str]()
    for paths in copies.values():
        for number, path in enumerate(paths):
            try:
                made = _open_product(folder, path, delivered[path])
            except ProviderError as error:
                remarks.left_out.append(str(error))
                continue
            if isinstance(made, str):
                remarks.doubts.append(made)
                others.append(path)
                continue
            used.append(made)
            more[made.product.scene if made.product else ""] += len(paths) - number - 1
            if any(made.product.copy[:1] if made.product else ()):
                remarks.doubts.append(f"{made.path} is resampled, the file in the pixel size of the band is missing")
            break
    remarks.left_out += [
        f"{count_of(n, 'file')} of {scene}: other copies of its bands" for scene, n in more.items() if n
    ]
    known = [f.product for f in used if f.product]
    remarks.doubts += dict.fromkeys(f"of {p.scene}, {p.remark}" for p in known if p.remark)
    return _complete_scenes(used), others


def _open_product(folder: str, path: str, product: Delivered) -> ScannedFile | str:
    """A file of a product with what its header says; a sentence where it is not as delivered."""
    header = raster_io.read_header(os.path.join(folder, path))
    if product.integers and header.dtype.startswith("float"):
        return f"{path} is not taken for {product.scene}: it has {header.dtype} numbers, the product has integers"
    names: tuple[str, ...] = (product.band,)
    if not product.band and product.find_band:
        bands = [b for text in header.bands if (b := product.find_band(text or ""))]
        names, values = tuple(b.name for b in bands), {b.nodata for b in bands}
        if len(values) == 1:
            product = replace(product, nodata=values.pop())
        elif all(v is None for v in header.nodata):
            remark = f"{path} declares no nodata value and its bands have several, so all its numbers count as data"
            product = replace(product, remark=remark)
    if len(names) != len(header.bands) or len(set(names)) != len(names):
        return f"{path} is not taken for {product.scene}: its {count_of(len(header.bands), 'band')} have no names of the product"
    nodata = product.nodata if all(v is None for v in header.nodata) else None
    cloud = product.cloud_cover
    if cloud is None:
        cloud = percent(header.tags.get("cloud_coverage"))  # HLS
    orbit = product.orbit or {"ASCENDING": "ASCENDING", "DESCENDING": "DESCENDING"}.get(
        header.tags.get("ORBIT_PASS_DIRECTION", "").upper()  # OPERA
    )
    product = replace(product, cloud_cover=cloud, orbit=orbit)
    where = f"{product.source}"
    return ScannedFile(path, names, len(names), product.datetime or None, where, product.scene, True, product, nodata)


def _complete_scenes(files: list[ScannedFile]) -> list[ScannedFile]:
    """Files with the time, cloud cover and orbit of their scene's first file that has them."""
    first: dict[tuple[str, str], Delivered] = {}
    for file in files:
        assert file.product is not None
        key = file.product.collection, file.scene
        known = first.setdefault(key, file.product)
        first[key] = replace(
            known,
            datetime=known.datetime or file.product.datetime,
            cloud_cover=file.product.cloud_cover if known.cloud_cover is None else known.cloud_cover,
            orbit=known.orbit or file.product.orbit,
        )
    done = []
    for file in files:
        assert file.product is not None
        of_scene = first[file.product.collection, file.scene]
        product = replace(
            file.product, datetime=of_scene.datetime, cloud_cover=of_scene.cloud_cover, orbit=of_scene.orbit
        )
        done.append(replace(file, product=product, datetime=of_scene.datetime or None))
    return done


def _describe_unused(unused: Sequence[tuple[str, Unused]]) -> list[str]:
    """A sentence about each refused product, and one about all files that are no imagery."""
    products = Counter(u for _, u in unused if u.refused)
    lines = [f"{u.product} ({count_of(n, 'file')}): it is {u.reason}" for u, n in products.items()]
    for reason, number in Counter(u.reason for _, u in unused if not u.refused).items():
        lines.append(f"{count_of(number, 'file')} of products: {reason}")
    return lines


def count_of(number: int, what: str) -> str:
    """``1 file`` or ``2 files``."""
    return f"{number} {what}{'s' * (number != 1)}"


# other rasters -----------------------------------------------------------------------------------


def _scan_file(folder: str, path: str) -> ScannedFile:
    header = raster_io.read_header(os.path.join(folder, path))
    described = header.bands if header.alpha_is_image else header.without_alpha
    named = all(described) and len(set(described)) == len(described)
    bands = tuple(map(str, described)) if named and not any(" " in str(b) for b in described) else ()
    when = find_time(path, header.tags)
    if len(described) == 1 and not bands and (band_and_scene := parse_band(path)):
        band, scene = band_and_scene
        loose = re.match(sentinel2.LOOSE_FILE, os.path.basename(path), re.IGNORECASE)
        nodata = 0.0 if loose and header.nodata == (None,) else None
        return ScannedFile(path, (band,), 1, *when, scene, named=True, nodata=nodata)
    alpha = "".join(f", band {i + 1} is marked as alpha" for i in header.alpha)
    if alpha:
        alpha += " and has the values of an image" if header.alpha_is_image else " (transparency) and not counted"
    return ScannedFile(path, bands, len(described), *when, path, alpha=alpha)


def _keep_finest(found: list[ScannedFile], refused: list[str]) -> list[ScannedFile]:
    """The finest of the copies of one band of a scene in several resolutions; of Sentinel-2 the
    one of the instrument."""
    best: dict[tuple, ScannedFile] = {}

    def order(file: ScannedFile) -> tuple[int, ...]:
        size = re.search(SIZE, os.path.splitext(file.path)[0])
        metres = int(size.group(1)) if size else 0
        loose = re.match(sentinel2.LOOSE_FILE, os.path.basename(file.path), re.IGNORECASE)
        return sentinel2.copy_order(file.bands[0], metres) if loose and file.bands else (metres,)

    for file in sorted(found, key=order):
        kept = best.setdefault((file.scene, file.bands), file)
        if kept is not file:
            refused.append(f"{file.path} is another copy of {kept.path}")
    return sorted(best.values(), key=lambda f: f.path)


def _date_scenes(found: list[ScannedFile]) -> list[ScannedFile]:
    """Files with the date of their scene; none where the files of a scene have different dates."""
    days: dict[str, set[str]] = {}
    times: dict[str, tuple[str, str]] = {}
    for file in found:
        if file.datetime:
            days.setdefault(file.scene, set()).add(file.datetime[:10])
            times.setdefault(file.scene, (file.datetime, file.where))
    done = []
    for file in found:
        if len(days.get(file.scene, ())) > 1:
            done.append(replace(file, datetime=None, where=AMBIGUOUS))
        elif file.datetime is None and file.where != AMBIGUOUS and file.scene in times:
            done.append(replace(file, datetime=times[file.scene][0], where=times[file.scene][1]))
        else:
            done.append(file)
    return done


def _list_rasters(folder: str, refused: list[str]) -> list[str]:
    """Paths of the rasters below a folder; sentences about files that hold rasters and are not
    read are added to ``refused``."""
    rasters = []
    for parent, names in _walk(folder):
        entries = {n.lower() for n in os.listdir(parent)}
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
            lower = name.lower()
            if not _is_utf8(path):
                if lower.endswith(SUFFIXES):
                    refused.append(f"{path!r}: its name is not UTF-8")
            elif lower.endswith(SUFFIXES):
                rasters.append(path)
            elif found := next(((e, w) for ends, w in _CONTAINERS.items() for e in ends if lower.endswith(e)), None):
                stem = lower.removesuffix(found[0])
                if not any(e != lower and e.startswith(stem) and not e.endswith(found[0]) for e in entries):
                    refused.append(f"{path} {found[1]}")
    return rasters


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Folders below a folder with the names of their files, sorted; nothing that is hidden."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # links can form cycles
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield parent, sorted(n for n in names if not n.startswith("."))

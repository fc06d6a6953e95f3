"""The layers of docs/architecture.md: imports between packages point down only, and no modules
import each other in a circle."""

from __future__ import annotations

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "rs_embed"

#: Top to bottom. A package imports from itself and from lower lines; packages of one line do not
#: import each other.
LAYERS = (
    ("rs_embed", "__main__"),
    ("api", "cli"),
    ("launch",),
    ("upkeep", "estimate"),
    ("stages",),
    ("runs",),
    ("engine",),
    ("models", "reading"),
    ("providers", "weights", "formats"),
    ("planning", "store", "machine"),
    ("products",),
    ("request",),
    ("errors", "version"),
)
#: The same inside packages that have sub-packages; modules of the package that are not named are
#: on no line, and may be imported by all of them.
SUBPACKAGES = {
    "providers": (("gee", "stac"), ("rasters",), ("limits",)),
    "stages": (("repair", "prepare"), ("fetch", "embed", "write", "merge"), ("manifests",), ("shared",)),
    "models": (("prithvi", "remoteclip", "terrafm", "thor", "mosaiks"), ("shared",)),
    "formats": (("netcdf", "npz"),),
    "products": (("sentinel2", "landsat", "hls", "modis", "sentinel1"), ("base",)),
}
#: Basenames that sibling packages have for the same role.
ROLES = {"base", "provider"}


def modules() -> dict[str, Path]:
    """Path of every module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of the package that a module imports, those inside functions and for types alone
    included."""
    path, found = MODULES[name], set()
    parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {full if (full := f"{base}.{a.name}") in MODULES else base for a in node.names} & set(MODULES)
    return found - {name}


IMPORTS = {name: imports(name) for name in MODULES}


def position(table: tuple[tuple[str, ...], ...], word: str) -> int | None:
    return next((i for i, line in enumerate(table) if word in line), None)


def part(name: str, depth: int) -> str:
    """The package (depth 1), or what is below it (depth 2), of a dotted name."""
    parts = name.split(".")
    return parts[depth] if len(parts) > depth else parts[0] if depth == 1 else ""


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name):
    own = position(LAYERS, part(name, 1))
    assert own is not None, f"{name} is in no layer"
    for other in IMPORTS[name]:
        if part(other, 1) != part(name, 1):
            assert own < position(LAYERS, part(other, 1)), f"{name} imports {other}"
        elif table := SUBPACKAGES.get(part(name, 1)):
            above, below = (position(table, part(n, 2)) for n in (name, other))
            if None not in (above, below) and part(name, 2) != part(other, 2):
                assert above < below, f"{name} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    # a package's __init__ is imported before its modules anyway; what counts is what it imports
    # itself
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_document_lists_the_same_layers():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", text, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == [set(line) for line in LAYERS]


def test_every_name_is_in_a_table_once():
    names = [word for line in LAYERS for word in line]
    assert Counter(names).most_common(1)[0][1] == 1
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(names) == packages | files | {"rs_embed"}


def test_a_basename_occurs_once():
    names = Counter(name.rpartition(".")[2] for name, path in MODULES.items() if path.name != "__init__.py")
    twice = {name for name, count in names.items() if count > 1} - ROLES
    assert not twice, sorted(twice)


def test_heavy_libraries_are_imported_where_they_are_used():
    """Importing the package, or planning a request, imports none of them."""
    heavy = set(
        [
            "torch",
            "snakemake",
            "ee",
            "numpy",
            "rasterio",
            "pyogrio",
            "huggingface_hub",
            "safetensors",
            "pystac",
            "pystac_client",
            "requests",
        ]
    )
    heavy |= set(["netCDF4", "xarray", "pandas", "pyproj", "h5py"])
    allowed = {"rs_embed.models.shared.vit"}  # imported where a network is made
    for name in MODULES.keys() - allowed:
        for node in ast.parse(MODULES[name].read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not heavy & {n.partition(".")[0] for n in names}, f"{name} imports {names} at module level"


#: Tests of a package as a whole, rather than of one of its modules.
OF_PACKAGES = {
    "models/test_contributing",
    "planning/test_identities",
    "providers/test_same_pixels",
    "reading/test_load_export",
    "reading/test_reference_files",
    "request/test_hostile_input",
    "stages/test_stages",
}


def test_a_test_file_is_named_after_the_module_that_it_tests():
    tests, found = Path(__file__).parent, set()
    for path in tests.rglob("test_*.py"):
        package = path.parent.relative_to(tests)
        if (PACKAGE / package).is_dir() and path.parent != tests:
            inside = {p.stem for p in (PACKAGE / package).rglob("*") if p.suffix == ".py" or p.is_dir()}
            if not any(re.fullmatch(rf"test_{name}(_.*)?", path.stem) for name in inside):
                found.add(f"{package}/{path.stem}")
    assert found == OF_PACKAGES

"""The example of CONTRIBUTING.md: the adapter that it prints, added to a copy of the project,
embeds the sample scene."""

from __future__ import annotations

import os
import re
import shutil

from ..support.exports import CHECKOUT, python


def code_block(mark: str) -> str:
    """The code between two marks of CONTRIBUTING.md."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    return re.search(rf"<!-- {mark}: begin -->\n```python\n(.*?)```\n<!-- {mark}: end -->", text, re.DOTALL).group(1)


def test_the_adapter_of_the_contributing_page_works(tmp_path):
    copy, folder = tmp_path / "checkout", tmp_path / "folder"
    folder.mkdir()
    for name in ("rs_embed", "workflow", "profiles", "envs"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "Snakefile", copy)
    (copy / "rs_embed" / "models" / "bandmeans.py").write_text(code_block("adapter"))
    registry = copy / "rs_embed" / "models" / "__init__.py"
    text = registry.read_text()
    assert text.count("MODELS = {\n") == 1
    registry.write_text(text.replace("MODELS = {\n", "MODELS = {\n" + code_block("registry")))
    script = code_block("export") + (
        "import numpy as np\n"
        "result = load_export('exports/bandmeans')\n"
        "assert result.status == 'ok'\n"
        "pixels = np.stack(result.models['bandmeans'].inputs)\n"
        "assert np.allclose(result.embedding('bandmeans'), pixels.mean((2, 3)) * 1e-4, rtol=1e-5)\n"
    )
    # the shape of grids that the page gives
    script += (
        code_block("export")
        .replace("    backend=", "    output=OutputSpec.grid(),\n    backend=")
        .replace("import ", "import OutputSpec, ", 1)
    )
    done = python(script, cwd=folder, env=os.environ | {"PYTHONPATH": str(copy)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(2, 3)", "(2, 3, 64, 64)"]

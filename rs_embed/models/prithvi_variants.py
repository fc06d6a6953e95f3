"""The published models of Prithvi-EO: sizes, files, and the constants that differ between them."""

from __future__ import annotations

from dataclasses import dataclass

BANDS = ("B2", "B3", "B4", "B8A", "B11", "B12")
#: Mean and standard deviation of the training imagery (HLS), DN, in the order of BANDS
#: (``mean`` and ``std`` in ``config.json`` of the 2.0 models).
MEAN = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0)
STD = (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)
#: The same of Prithvi-EO-1.0-100M; TerraTorch rounds them to integers.
MEAN_1 = (
    775.2290211032589,
    1080.992780391705,
    1228.5855250417867,
    2497.2022620507532,
    2204.2139147975554,
    1610.8324823273745,
)
STD_1 = (
    1281.526139861424,
    1270.0297974547493,
    1399.4802505642526,
    1368.3446143747644,
    1291.6764008585435,
    1154.505683480695,
)


@dataclass(frozen=True)
class Variant:
    """One published model.

    Attributes:
        dim, depth, heads, patch: sizes of the encoder.
        size: the size in the names of its repository and file.
        revision: the pinned commit of the repository.
        sha256: digest of the file, compared before use.
        listed: digest that the hub's pages or other projects list for the file. Nobody verified it
            here, so a file of another digest is used, with a warning in the manifest.
        generation: in the names of repository and file.
        conditioned: the model takes date and location (TL).
        frames: number of frames in training.
        eps: of every LayerNorm.
        mean, std: of the training imagery.
    """

    dim: int
    depth: int
    heads: int
    patch: int
    size: str
    revision: str
    sha256: str | None = None
    listed: str | None = None
    generation: str = "2.0"
    conditioned: bool = True
    frames: int = 4
    eps: float = 1e-5
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


#: Sizes: ``prithvi_cfgs`` of TerraTorch's ``prithvi_vit.py``, which also lists the names of the
#: files (``pretrained_weights``). The tests compare the number of parameters and the frames with
#: the sizes of the published files. docs/models/prithvi.md has the sources of commits and digests.
VARIANTS = {
    "prithvi_eo_v2_100_tl": Variant(
        *(768, 12, 12, 16, "100M", "2c84e383194986040f883cc43d7869002c425e1b"),
        listed="d45406d5fc51af1d9657d48f2e2c3ff077408a2e1113f9a242889a4fe4469b17",
    ),
    "prithvi_eo_v2_300_tl": Variant(
        *(1024, 24, 16, 16, "300M", "63adbd39c271da4c42f447e69b1a7c91a338cdc9"),
        "3629cedfbb350faafcb0dac902ae0d3c927e25ce8d9e0024aa1276ec66956ddb",
    ),
    "prithvi_eo_v2_600_tl": Variant(
        *(1280, 32, 16, 14, "600M", "3d72adc6dfc4cc3862bf4f41da8c83db267193c9"),
        listed="7b92c53b0204a76bb775bd8930f045e05776251caa8c83f7367ed0b75b594702",
    ),
    "prithvi_eo_v2_tiny_tl": Variant(
        *(192, 12, 3, 16, "tiny", "335eadc2c45ad5abe7bd307223e1c48c5b60c41b"),
        listed="d47326db9bad502b611f73e3e3f3a0e68b7b82640d67c22c795417f7209f8d70",
    ),
    "prithvi_eo_v2_300": Variant(
        *(1024, 24, 16, 16, "300M", "c6f9ef2709377aca8a61b193f337ffec3b37d082"),
        listed="faab2c8b776f0723f93431747603a7ec586a54fc45473613b4322c29752486e7",
        conditioned=False,
    ),
    "prithvi_eo_v2_600": Variant(
        *(1280, 32, 16, 14, "600M", "6e6d90d30a706fb2525683d1991e5d0e8810b748"), conditioned=False
    ),
    # eps: the first version's Prithvi_run_inference.py
    "prithvi_eo_v1_100": Variant(
        *(768, 12, 12, 16, "100M", "4d894e1487bab8bde27cb2f44b9b7c4b1535685e"),
        listed="7fac0c8a8693198e32a055e0c5a967f8b005f382182b63df1b29fdcd5c880731",
        generation="1.0",
        conditioned=False,
        frames=3,
        eps=1e-6,
        mean=MEAN_1,
        std=STD_1,
    ),
}


def _list_spellings() -> dict[str, str]:
    """Every spelling of a variant: its name in VARIANTS. Short names leave out
    ``prithvi_eo_v2_``, or ``prithvi_eo_``, and can have the unit: ``100m_tl``."""
    found = {name: name for name in VARIANTS}
    for name in VARIANTS:
        short = name.removeprefix("prithvi_eo_").removeprefix("v2_")
        found |= {short: name, short.replace("00", "00m"): name}
    return found


#: every spelling of a variant -> its name in VARIANTS
SPELLINGS = _list_spellings()

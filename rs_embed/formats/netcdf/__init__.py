"""NetCDF files with CF coordinates (``format="netcdf"``).

- ``writer``, ``reader``: the classes of the format.
- ``layout``: names of dimensions, and chunk sizes.
- ``variables``: dimensions, coordinates, texts and grid mappings.
- ``cf``: attributes and numbers of the CF conventions.
- ``hdf5``: chunks that are deflated here, in threads, and put into the file.
"""

from .reader import NetcdfReader as Reader
from .writer import KEYS, PATH
from .writer import NetcdfWriter as Writer

__all__ = ["KEYS", "PATH", "Reader", "Writer"]

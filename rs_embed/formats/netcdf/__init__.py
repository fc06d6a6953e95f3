"""NetCDF files with CF coordinates (``format="netcdf"``)."""

from .writer import KEYS, PATH, Reader, Writer

__all__ = ["KEYS", "PATH", "Reader", "Writer"]

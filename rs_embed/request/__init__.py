"""The request of a user. Reads tables, writes no files.

``request``: the whole request; ``specs``: ROIs, windows, sensors, outputs; ``config``: target and
run options; ``gee_settings``, ``gee_backend``, ``stac_settings``: of providers; ``rois``,
``vector_features``, ``dataframes``: tables of ROIs; ``geometry``: pixel grids; ``identity``:
digests; ``fields``: checks of values; ``schema``: JSON schema of a config file.
"""

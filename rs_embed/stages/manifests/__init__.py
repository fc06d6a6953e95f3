"""The contents of manifests, and the metadata of array files.

``roi_record``: the record of a ROI. ``survey``: one pass over all records. ``spool``: rows in
temporary files. ``documents``: the three kinds of manifests. ``duplicates``: equal rows.
``timing``: the cost of a run. ``array_metadata``: metadata of array files.
"""

"""The contents of manifests, and the metadata of array files.

``roi_record``: the record of a ROI. ``survey``: one pass over all records. ``spool``: rows in
temporary files. ``documents``: the three kinds of manifests, and the cost of a run.
``duplicates``: equal rows. ``array_metadata``: metadata of array files.
"""

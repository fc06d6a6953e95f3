"""What several jobs use.

``state``: valid receipts and remaining jobs. ``chunk_files``: the records of a chunk, and repairs
of its per-item files. ``stored_objects``: reading the store. ``restored_chips``: freed chips from
exports. ``packing``: packs at the end of a job. ``model_images``: images and tensors of models,
and checks of their pixels. ``jobs``: parts of the plan by name, the error of a job, and what a job
has used.
"""

"""What several jobs use.

``state``: valid receipts and remaining jobs. ``repairs``: repairs of per-item files.
``chunk_records``: the records of a chunk. ``stored_objects``: reading the store.
``restored_chips``: freed chips from exports. ``packing``: packs at the end of a job.
``model_images``: images and tensors of models. ``quality``: checks of pixels. ``plan_lookup``:
parts of the plan by name. ``stage_error``: the error of a job. ``job_timing``: the time, and what
a job has used.
"""

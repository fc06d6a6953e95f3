"""Parts of several model families.

- :mod:`.vit`: the transformer
- :mod:`.pretrained`: options and loading of published weights
- :mod:`.inputs`: checks, units of measure and sizes of input pixels
- :mod:`.byte_images`: 8-bit images, as for models trained on image files
- :mod:`.alibi`: attention biases by distance
"""

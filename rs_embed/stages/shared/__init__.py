"""What the jobs share: chips in and out of the store, images for models, and what is left to do."""

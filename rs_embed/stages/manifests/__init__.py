"""What manifests and array files say beside the numbers."""

"""What all jobs of a run may ask of a service together."""

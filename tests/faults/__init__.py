"""Faults: kills at random moments, full disks, lost folders, failing providers, clocks. See
docs/reliability.md."""

"""Stored chips and embeddings: objects, packs, receipts, locks. Standard library and numpy only."""

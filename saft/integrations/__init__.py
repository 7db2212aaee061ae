"""Sharpness-aware training in the trainers that people have: thin adapters over `saft.optim`."""

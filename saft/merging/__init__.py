"""Merging of fine-tuned checkpoints: the methods, and the engine that runs them over files."""

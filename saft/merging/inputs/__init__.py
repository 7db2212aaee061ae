"""What a merge reads: checkpoints and adapters, brought under the base's tensor names."""

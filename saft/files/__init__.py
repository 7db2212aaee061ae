"""Files: where things are, complete or absent, safetensors, the checkpoint folder, fingerprints."""

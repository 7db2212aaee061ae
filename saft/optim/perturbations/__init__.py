"""One file per perturbation; each registers itself in `PERTURBATIONS`."""

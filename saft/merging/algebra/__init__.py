"""Linear algebra that several merge methods share."""

"""mergekit's merge file, and the two methods that are mergekit's own."""

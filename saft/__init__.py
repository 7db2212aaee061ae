"""saft: fine-tune models that will be merged, merge them, and measure how much the tasks interfere."""

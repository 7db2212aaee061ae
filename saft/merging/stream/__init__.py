"""The merge tensor by tensor: blocks, exact statistics over the whole stream, the engine."""

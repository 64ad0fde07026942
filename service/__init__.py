"""The HTTP service: feature vectors, writes, catalogue, metrics."""

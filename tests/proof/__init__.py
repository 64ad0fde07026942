"""A small stream that is taken in, served, logged and verified in one process, on a real Redis."""

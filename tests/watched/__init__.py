"""A small shop with streams, loads, dead letters and labels, for the tests of what people watch."""

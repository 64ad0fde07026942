"""A project with every kind of key, value and view, and its data, for the tests of serving."""

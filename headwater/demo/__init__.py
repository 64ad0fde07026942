"""The demo: a year of real flights, streamed as if it were now."""

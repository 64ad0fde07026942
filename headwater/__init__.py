"""Headwater: a feature store service on Feast definitions."""

__version__ = "0.1.0"

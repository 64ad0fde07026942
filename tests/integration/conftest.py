"""The stages of the fault tests, of which all modules share one applied project."""

from tests.faults.stages import make_stage, template

__all__ = ["make_stage", "template"]

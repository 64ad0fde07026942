"""Redis state from the offline log: what is missing in it, and the filling of that."""

from headwater.rebuild.fill import Rebuilder
from headwater.rebuild.gaps import Gap, missing, stream_views

__all__ = ["Gap", "Rebuilder", "missing", "stream_views"]

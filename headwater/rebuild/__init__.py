"""Redis state from the offline log: what is missing in it, and the filling of that."""

from headwater.rebuild.fill import Rebuilder, Report
from headwater.rebuild.gaps import Gap, events_behind, missing, stream_views
from headwater.rebuild.retired import Retired

__all__ = [
    "Gap",
    "Rebuilder",
    "Report",
    "Retired",
    "events_behind",
    "missing",
    "stream_views",
]

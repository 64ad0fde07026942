"""How good the features are: freshness against its objective. Pure."""

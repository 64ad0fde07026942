"""The ingest worker: Kafka in; online state and the offline log out."""

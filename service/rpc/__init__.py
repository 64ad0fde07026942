"""gRPC beside HTTP: Feast's `ServingService` and `GrpcFeatureServer`, health and reflection."""

"""The pipeline of Headwater's JSON log lines into Loki: Grafana Alloy's configuration. Pure."""

from __future__ import annotations

from headwater.catalog import Catalog

_ALLOY = """\
// Log lines of containers that run the image "headwater", one JSON object a line, into Loki.
// Labels are level and logger alone; every other field stays in the line.

discovery.docker "containers" {
  host             = "unix:///var/run/docker.sock"
  refresh_interval = "10s"
}

discovery.relabel "headwater" {
  targets = discovery.docker.containers.targets
  rule {
    source_labels = ["__meta_docker_container_label_com_docker_compose_project"]
    regex         = "headwater"
    action        = "keep"
  }
  rule {
    source_labels = ["__meta_docker_container_label_com_docker_compose_service"]
    target_label  = "service"
  }
}

loki.source.docker "headwater" {
  host       = "unix:///var/run/docker.sock"
  targets    = discovery.relabel.headwater.output
  forward_to = [loki.process.headwater.receiver]
}

loki.process "headwater" {
  stage.json {
    expressions = { level = "level", logger = "logger", time = "time" }
  }
  stage.labels {
    values = { level = "", logger = "" }
  }
  stage.timestamp {
    source = "time"
    format = "RFC3339Nano"
  }
  stage.static_labels {
    values = { project = "PROJECT" }
  }
  forward_to = [loki.write.loki.receiver]
}

loki.write "loki" {
  endpoint {
    url = "http://loki:3100/loki/api/v1/push"
  }
}
"""


def alloy(catalog: Catalog) -> str:
    """Alloy's configuration for a project."""
    return _ALLOY.replace("PROJECT", catalog.project)

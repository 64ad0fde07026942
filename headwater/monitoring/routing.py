"""Alertmanager's configuration: pages and tickets, and one page for one fault. Pure."""

from __future__ import annotations

from typing import Any

from headwater.monitoring.options import Channel, Options

#: What a fault brings with it: (its alert, the alerts that it explains, labels that must agree).
CAUSES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("FeatureStoreDown", ".+", ()),
    ("FeatureServiceDown", "Feature.+|Online.+|NullRatioJump|SourceSilent|InstanceDown", ()),
    ("IngestDown", "FeatureView.+|SourceSilent|Ingest.+|OfflineLogBehind|InstanceDown", ()),
    ("IngestStalled", "FeatureView.+|SourceSilent|IngestLagSeconds|OfflineLogBehind", ()),
    ("SourceSilent", "FeatureView.+|FeatureServedStale", ("stream",)),
    # With a tag its values are null, or refused.
    (
        "FeatureViewStale",
        "FeatureServedStale|FeatureNullRatioHigh|NullRatioJump",
        ("feature_view",),
    ),
    ("OnlineErrorBudgetBurn", "OnlineLatencyBudgetBurn", ()),
)


def routing(options: Options) -> dict[str, Any]:
    """A page goes out after two intervals and is repeated hourly, a ticket daily."""
    page, ticket = ({"severity": name} for name in ("page", "ticket"))
    return {
        **_globals(options),
        "route": {
            "receiver": "ticket",
            "group_by": ["project", "alertname", "stream"],
            "group_wait": options.time(2),
            "group_interval": options.time(4),
            "repeat_interval": "24h",
            "routes": [
                {"matchers": _matchers(page), "receiver": "page", "repeat_interval": "1h"},
                {"matchers": _matchers(ticket), "receiver": "ticket"},
            ],
        },
        "inhibit_rules": [
            {
                "source_matchers": _matchers({"alertname": cause}),
                # An alert is never its own cause.
                "target_matchers": [f'alertname!="{cause}"', f'alertname=~"{effects}"'],
                "equal": ["project", *labels],
            }
            for cause, effects, labels in CAUSES
        ],
        "receivers": [
            _receiver("page", options.page, options),
            _receiver("ticket", options.ticket, options),
        ],
    }


def _matchers(labels: dict[str, str]) -> list[str]:
    return [f'{name}="{value}"' for name, value in labels.items()]


def _globals(options: Options) -> dict[str, Any]:
    if all(channel.kind != "email" for channel in options.page + options.ticket):
        return {}
    return {"global": {"smtp_smarthost": options.smtp, "smtp_from": options.sender}}


def _receiver(name: str, channels: tuple[Channel, ...], options: Options) -> dict[str, Any]:
    receiver: dict[str, Any] = {"name": name}
    for kind, to in channels:
        if kind == "webhook":
            made: dict[str, Any] = {"url": to, "send_resolved": True}
        elif kind == "email":
            made = {"to": to, "send_resolved": True}
        else:
            made = {
                "chat_id": int(to), "bot_token_file": options.telegram_token,
                "send_resolved": True,
            }  # fmt: skip
        receiver.setdefault(f"{kind}_configs", []).append(made)
    return receiver

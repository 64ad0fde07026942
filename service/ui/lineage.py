"""Where a view's data come from and who is given its features, as columns of boxes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from headwater.catalog import Catalog, FeatureRefPlan, OnDemandPlan, ServicePlan, ViewPlan
from service.access import PAGES
from service.ui.drawings import Node

_VIEW, _DEMAND, _SERVICE = "feature view", "on-demand view", "feature service"


def lineage(catalog: Catalog, view: ViewPlan | OnDemandPlan, feature: str = "") -> list[list[Node]]:
    """Sources, the view, on-demand views of it, services, models; of one feature, or of all.

    Of an on-demand view: sources, the views that it reads, itself, services, models.

    A service's model is its tag `model`, where it has one.
    """
    names = (feature,) if feature else view.feature_names
    if isinstance(view, OnDemandPlan):
        before = list(dict.fromkeys(_box(catalog, source.view) for source in view.inputs))
        asked = ", ".join(field.name for field in view.request_fields)
        before += [Node("request", asked)] if asked else []
        first = {node: None for s in view.inputs for node in _made_of(catalog, s.view)}
        here = Node(_DEMAND, view.name, _address(view.name), _keys(before))
        demand: list[OnDemandPlan] = []
    else:
        before, first = sources(catalog, view), {}
        here = _box(catalog, view.name)
        demand = [
            plan for plan in catalog.on_demand.values()
            if any(_gives(source, view, names) for source in plan.inputs)
        ]  # fmt: skip
    given = {view.name: names, **{plan.name: plan.feature_names for plan in demand}}
    services = [
        Node(_SERVICE, service.name, f"{PAGES}/lookup?of=service:{quote(service.name)}", inputs)
        for service in catalog.services.values()
        for inputs in [_uses(catalog, service, given)] if inputs
    ]  # fmt: skip
    models = [
        Node("model", catalog.services[node.name].tags["model"], "", (f"{_SERVICE}:{node.name}",))
        for node in services if "model" in catalog.services[node.name].tags
    ]  # fmt: skip
    made = [
        Node(_DEMAND, plan.name, _address(plan.name), (f"{here.kind}:{here.name}",))
        for plan in demand
    ]
    return [list(first), before, [here], made, services, models]


def _box(catalog: Catalog, name: str) -> Node:
    """A view, with what it is made of as its inputs."""
    kind, _, address = _named(catalog, name)
    return Node(kind, name, address, _keys(_made_of(catalog, name)))


def _made_of(catalog: Catalog, name: str) -> list[Node]:
    """A view's sources; of an on-demand view none, for it has views."""
    return sources(catalog, catalog.views[name]) if name in catalog.views else []


def _keys(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(f"{node.kind}:{node.name}" for node in nodes)


def sources(catalog: Catalog, view: ViewPlan) -> list[Node]:
    """What a view is made from."""
    if view.stream:
        stream = catalog.streams[view.stream]
        topics = ", ".join(stream.topics)
        found = [Node("Kafka topic" if len(stream.topics) == 1 else "Kafka topics", topics)]
        return [*found, *([Node("history", stream.history.name)] if stream.history else [])]
    found = [Node("push source", view.push)] if view.push else []
    batch = [Node(f"{view.batch.format} source", view.batch.name)] if view.batch else []
    return [*found, *batch]


def _gives(source: FeatureRefPlan, view: ViewPlan | OnDemandPlan, names: tuple[str, ...]) -> bool:
    return source.view == view.name and (
        not source.features or any(name in names for name in source.features)
    )


def _uses(
    catalog: Catalog, service: ServicePlan, given: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Which of the views that are given a service asks for, as the inputs of its box."""
    return tuple(
        ":".join(_named(catalog, reference.view)[:2])
        for reference in service.features
        if reference.view in given
        and (not reference.features or set(reference.features) & set(given[reference.view]))
    )


def _named(catalog: Catalog, name: str) -> tuple[str, str, str]:
    return (_DEMAND if name in catalog.on_demand else _VIEW), name, _address(name)


def _address(view: str) -> str:
    return f"{PAGES}/views/{quote(view)}"

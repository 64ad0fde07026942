"""What a program says to get a feature: curl and Python to copy. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: A value of each type of key, where nobody has named a better one.
_SAMPLES: dict[str, Any] = {
    "INT32": 1, "INT64": 1, "FLOAT": 1.0, "DOUBLE": 1.0, "BOOL": True, "UNIX_TIMESTAMP": 1767225600,
    "BYTES": "AA==",
}  # fmt: skip


def sample(kind: str) -> Any:
    return _SAMPLES.get(kind, "a")


def curl(url: str, asked: Mapping[str, Any], with_key: bool) -> str:
    """The request as curl sends it."""
    key = ' \\\n  -H "Authorization: Bearer $KEY"' if with_key else ""
    body = _body(asked).replace("'", "'\\''")
    return f"curl {url}/get-online-features{key} -d '{body}'"


def _body(asked: Mapping[str, Any]) -> str:
    """JSON with a line for each member, and for each feature."""
    members = []
    for name, value in asked.items():
        text = json.dumps(value, ensure_ascii=False)
        if name == "features":
            text = "[\n    " + ",\n    ".join(json.dumps(f) for f in value) + "\n  ]"
        members.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(members) + "\n}"


def python(url: str, asked: Mapping[str, Any], with_key: bool) -> str:
    """The request by `headwater.client`."""
    key = ', key=os.environ["KEY"]' if with_key else ""
    lines = ["import os\n"] if with_key else []
    lines += [
        "from headwater.client import Client\n",
        f"with Client({url!r}{key}) as client:",
        "    found = client.features(",
        f"        {asked['entities']!r},",
    ]
    if "feature_service" in asked:
        lines.append(f"        service={asked['feature_service']!r},")
    else:
        lines += [
            "        features=[",
            *(f"            {f!r}," for f in asked["features"]),
            "        ],",
        ]
    return "\n".join([*lines, "    )", "    print(found.to_dict())"])

"""`bench schema`: the JSON Schema of suite files."""

import json


def schema() -> None:
    """Print the JSON Schema of suite files, so that editors complete and check them."""
    from bench.suite import suite_schema

    print(json.dumps(suite_schema(), indent=2))

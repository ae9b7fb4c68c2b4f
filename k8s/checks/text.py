"""Reads YAML as strictly as a Kubernetes API server: a duplicate key is an error."""

from typing import Any

import yaml


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        own = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in own if own.count(key) > 1}
        # Merge keys (`<<`) legally add duplicates of overridden keys when they are flattened, so duplicates are counted
        # only before that.
        if twice and not getattr(node, "flattened", False):
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        node.flattened = True


def documents(text: str) -> list[Any]:
    return [document for document in yaml.load_all(text, Loader=_Strict) if document]

"""The rules of the STAC extensions that the maps' catalogue uses, for pystac's own validator without a network.

pystac carries the schemas of the core. Those of the extensions are on the network, so their rules are written down here
from their documents: which fields of their prefix exist, of which type, and where they may stand.
"""

from typing import Any, Final

from pystac.validation.stac_validator import JsonSchemaSTACValidator

TEXT: Final = {"type": "string"}
WHOLE: Final = {"type": "integer", "minimum": 0}
CLASS: Final = {
    "type": "object",
    "required": ["value", "name"],
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"},
        "title": TEXT,
        "description": TEXT,
        "color_hint": {"type": "string", "pattern": "^[0-9A-Fa-f]{6}$"},
        "nodata": {"type": "boolean"},
    },
    "additionalProperties": False,
}
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "projection/v2.0.0": {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9]+$"},
        "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": WHOLE},
        "proj:transform": {"type": "array", "minItems": 6, "maxItems": 6, "items": {"type": "number"}},
    },
    "classification/v2.0.0": {
        "classification:classes": {"type": "array", "minItems": 1, "uniqueItems": True, "items": CLASS},
    },
    "file/v2.1.0": {
        "file:checksum": {"type": "string", "pattern": "^[a-f0-9]+$"},
        "file:size": WHOLE,
    },
    "processing/v1.2.0": {
        "processing:lineage": TEXT,
        "processing:software": {"type": "object", "additionalProperties": TEXT},
    },
}


def _schema(uri: str, prefix: str, fields: dict[str, Any]) -> dict[str, Any]:
    known = {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }
    each = {"type": "object", "additionalProperties": known}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": uri,
        "type": "object",
        "required": ["type", "stac_extensions"],
        "properties": {
            "type": {"enum": ["Feature", "Collection"]},
            "stac_extensions": {"type": "array", "contains": {"const": uri}},
            "properties": known,
            "assets": each,
            "item_assets": each,
            "providers": {"type": "array", "items": known},
        },
    }


def validator() -> JsonSchemaSTACValidator:
    """pystac's validator, with these rules where it would ask the network."""
    made = JsonSchemaSTACValidator()
    for name, fields in FIELDS.items():
        uri = f"https://stac-extensions.github.io/{name}/schema.json"
        prefix = next(iter(fields)).partition(":")[0]
        made.schema_cache[uri] = _schema(uri, prefix, fields)
    return made

"""Tests of the Grafana dashboard: Grafana can load it, and it shows what the code registers, all of it."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema

from depers.observation.metrics import COMMON_LABELS, METRICS, MetricKind

FILE = Path(__file__).parents[3] / "deploy/grafana-dashboard.json"

# The part that is used of Grafana's dashboard schema (kinds/dashboard/dashboard_kind.cue, schemaVersion 39).
DATASOURCE = {
    "type": "object",
    "required": ["type", "uid"],
    "additionalProperties": False,
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos", "targets", "datasource", "fieldConfig", "options"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"enum": ["timeseries", "stat", "gauge", "table", "barchart"]},
        "title": {"type": "string", "minLength": 1},
        "description": {"type": "string", "minLength": 1},
        "datasource": DATASOURCE,
        "gridPos": {
            "type": "object",
            "required": ["x", "y", "w", "h"],
            "properties": {
                "x": {"type": "integer", "minimum": 0, "maximum": 23},
                "y": {"type": "integer", "minimum": 0},
                "w": {"type": "integer", "minimum": 1, "maximum": 24},
                "h": {"type": "integer", "minimum": 1},
            },
        },
        "fieldConfig": {
            "type": "object",
            "required": ["defaults", "overrides"],
            "properties": {
                "defaults": {"type": "object", "properties": {"unit": {"enum": ["ops", "short", "s", "Bps"]}}},
                "overrides": {"type": "array"},
            },
        },
        "options": {"type": "object"},
        "targets": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["refId", "expr", "datasource", "legendFormat"],
                "additionalProperties": False,
                "properties": {
                    "refId": {"type": "string", "pattern": "^[A-Z]$"},
                    "expr": {"type": "string", "minLength": 1},
                    "legendFormat": {"type": "string"},
                    "datasource": DATASOURCE,
                },
            },
        },
    },
}
VARIABLE = {
    "type": "object",
    "required": ["name", "type", "query", "refresh"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "type": {"enum": ["query", "datasource"]},
        "query": {"type": ["string", "object"]},
        "refresh": {"enum": [0, 1, 2]},
        "sort": {"type": "integer", "minimum": 0, "maximum": 8},
        "multi": {"type": "boolean"},
        "includeAll": {"type": "boolean"},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "title": {"type": "string", "minLength": 1},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "refresh": {"type": "string", "pattern": "^[0-9]+[smh]$"},
        "graphTooltip": {"enum": [0, 1, 2]},
        "time": {"type": "object", "required": ["from", "to"]},
        "templating": {
            "type": "object",
            "required": ["list"],
            "properties": {"list": {"type": "array", "items": VARIABLE}},
        },
        "panels": {"type": "array", "minItems": 1, "items": PANEL},
    },
}
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_grafana_can_load_it() -> None:
    jsonschema.validate(DASHBOARD, SCHEMA)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)


def test_every_query_names_a_metric_and_every_metric_has_a_query() -> None:
    suffix = {MetricKind.HISTOGRAM: "_bucket"}
    names = {metric.exported_name + suffix.get(metric.kind, "") for metric in METRICS}
    queried = {name for query in QUERIES for name in re.findall(r"\b(?:ray_)?depers_\w+", query)}
    assert queried == names


def test_labels_are_those_of_the_metrics() -> None:
    metrics = {metric.exported_name: metric for metric in METRICS}
    for query in QUERIES:
        name = next(iter(re.findall(r"ray_depers_\w+", query))).removesuffix("_bucket")
        labels = {*COMMON_LABELS, *metrics[name].labels, "le"}
        grouped = {label.strip() for text in re.findall(r"by \(([^)]*)\)", query) for label in text.split(",")}
        matched = set(re.findall(r"(\w+)=~", query))
        assert grouped | matched <= labels, query
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}")
        assert metrics[name].kind is MetricKind.GAUGE or "rate(" in query, "counters only grow: their rate is shown"


def test_variables_are_those_of_the_queries() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\{?(\w+)", FILE.read_text()))
    assert used == names

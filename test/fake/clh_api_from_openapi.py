#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes clh_api.json, the table that fake_clh.py checks requests against, from Cloud Hypervisor's OpenAPI file.

usage: clh_api_from_openapi.py cloud-hypervisor.yaml > clh_api.json        (needs PyYAML)
       clh_api_from_openapi.py --check cloud-hypervisor.yaml clh_api.json  fails where they differ
"""
import json
import sys

import yaml


def shape(node):
    if "$ref" in node:
        return {"ref": node["$ref"].rsplit("/", 1)[1]}
    out = {"type": node.get("type", "object")}
    if "enum" in node:
        out["enum"] = node["enum"]
    if "minimum" in node:
        out["minimum"] = node["minimum"]
    if out["type"] == "array":
        out["items"] = shape(node.get("items", {}))
    if out["type"] == "object" and "properties" in node:
        out["properties"] = {k: shape(v) for k, v in node["properties"].items()}
        if node.get("required"):
            out["required"] = sorted(node["required"])
    return out


def table(path):
    with open(path, encoding="utf-8") as f:
        doc = yaml.safe_load(f)
    paths = {}
    for name, methods in doc["paths"].items():
        for method, what in methods.items():
            entry = {"method": method.upper(), "codes": sorted(int(c) for c in what.get("responses", {}))}
            body = what.get("requestBody")
            if body:
                entry["body"] = shape(body["content"]["application/json"]["schema"])
            paths[name.lstrip("/")] = entry
    return {"paths": paths, "schemas": {k: shape(v) for k, v in doc["components"]["schemas"].items()}}


def main():
    if sys.argv[1] == "--check":
        with open(sys.argv[3], encoding="utf-8") as f:
            if json.load(f) != table(sys.argv[2]):
                sys.exit(f"{sys.argv[3]} differs from {sys.argv[2]}: make it anew")
        return
    json.dump(table(sys.argv[1]), sys.stdout, indent=1, sort_keys=True)
    print()


main()

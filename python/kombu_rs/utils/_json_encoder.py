"""The encoder class of :mod:`kombu_rs.utils.json`, apart from it: few programs need one."""

from __future__ import annotations

import json
from typing import Any

from .json import encode_value


class JSONEncoder(json.JSONEncoder):
    """The standard library's encoder with our types; a base class for your own."""

    def default(self, o: Any) -> Any:
        """Return something that JSON has for ``o``, which JSON has not."""
        return encode_value(o)


JSONEncoder.__module__ = "kombu_rs.utils.json"

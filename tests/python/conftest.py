"""What every Python test may ask for; the servers' own fixtures are in `servers.pytest_plugin`."""

from __future__ import annotations

pytest_plugins = ["servers.pytest_plugin"]

"""Compare the stubs and annotations with the modules at run time: mypy's stubtest.

Clients of brokers that are not installed get a stand-in, as their names are in our modules then.
"""

from __future__ import annotations

import sys

from mypy.stubtest import main

from api_surface.collect import StandInFinder

if __name__ == "__main__":
    sys.meta_path.insert(0, StandInFinder())
    sys.exit(main())

"""Shared memory regions as objects: ``client.shared_memory(…)`` makes them."""

from ._regions.region import Region, RegionSlice

__all__ = ["Region", "RegionSlice"]

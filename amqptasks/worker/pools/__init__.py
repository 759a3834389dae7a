"""Pools: prefork (children from a zygote), threads (one child of n threads), solo (in the worker itself)."""

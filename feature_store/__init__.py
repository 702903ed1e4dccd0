"""Exact rolling features per product: pure arithmetic over tiles and steps, and the one module that talks to Redis."""

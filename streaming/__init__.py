"""Kafka in and out: contracts, transport, the ingest and forecast workers, settings, metrics and the command line."""

"""A shop with known truth, replay of real logs, and the embedded Kafka and Redis."""

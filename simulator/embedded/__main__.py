"""`python -m simulator.embedded`: fetch what the embedded servers need, ahead of their first start, and say what they will run on."""

import sys

from simulator.embedded import jars
from simulator.embedded.cache import cache_dir
from simulator.embedded.java import find_java
from simulator.embedded.redis import find_redis
from streaming.errors import UserError


def main() -> None:
    """Exit status 1, with a message, where something cannot be had."""
    try:
        print(f"Java:  {find_java()}")
        print(f"Redis: {find_redis()}")
        jars.class_path(cache_dir(), print)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"Kafka: {len(jars.locked())} jars in {cache_dir()}")


if __name__ == "__main__":
    main()

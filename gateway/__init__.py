"""What is known now, over HTTP: snapshots, a live stream with no hole between them, and the page that shows both.

`view`, `rows`, `cover`, `movers`, `hub`, `frames`, `access` and `listing` are pure; `follow` and `feedback` talk to Kafka, `api` and `stream` to HTTP,
`server` runs all of it in one process.
"""

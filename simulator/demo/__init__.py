"""The main job on this machine: servers, shop, workers, a live view, and a check of everything against the truth."""

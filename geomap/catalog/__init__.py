"""Stage 1: STAC items -> Scenes, each asset with its DN offset and the reason for it."""

"""API Rate Limiting Strategy: count what clients ask for, and keep to limits."""

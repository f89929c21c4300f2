"""Authentication: judge tokens, obtain them, and keep credentials at home."""

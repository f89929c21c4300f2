"""HTTP Error Response Patterns: read errors, retry them, and stop asking."""

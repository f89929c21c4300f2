"""REST API Design Principles: write safely, repeat safely, reuse what is fresh."""

"""API Pagination Strategy: walk a paged API, and serve one."""

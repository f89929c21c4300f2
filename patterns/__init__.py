"""API integration patterns: a folder is a note, a file is one copyable pattern."""

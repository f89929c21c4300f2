"""The site's machinery: plain functions over text, which know nothing of MkDocs.

`hooks.py` is the only file that speaks to MkDocs, so that another generator needs
another adapter and no more.
"""

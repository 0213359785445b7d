"""The history of any git repository as events, and what can be read off it.

``log`` reads ``git log`` as a stream of commits; ``lineage`` turns commits into events of files and authors; ``events`` says which; ``v1``
and ``v2`` are two versions of the read side, with what they share in ``names``.
"""

"""The bank: accounts as event streams, two projections of them, and the versions of those.

An aggregate is an account. ``events`` says what can happen to it, ``records`` which rows the read side has, ``projectors`` how events
become rows, and ``migrations`` what changed from version to version.
"""

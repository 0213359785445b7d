"""The event store: who writes events, how, and what holds while they do.

Pure::

    encoding                    what goes over the wire and comes back
    append_call                 what ``append_events`` is given and answers

Effects::

    store, appending, history   append, load, read; import of whole histories
    gate, event_types, home     owners of the tables of these names
    partitions                  which aggregates share a partition key
    own_connections             the engine's connections, lent for a call
    standstill, beside_writers  work that needs writers to wait, for a moment or for its commit alone
    transaction_ids             those that this cluster cannot have given out
    store_errors                what the server says, as errors of ours
"""

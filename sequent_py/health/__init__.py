"""Health: what can be wrong with an installation, and the remedy for each thing.

::

    findings      what a check says: subject, verdict, message, remedy        (pure)
    server        the server and its settings; connections that are left
    lineage       transaction ids and snapshots that another cluster gave out; subscriptions
    store_objects the store's own tables, keys, indexes, triggers and functions, beside a fresh installation
    privileges    what the present role may not do, and the GRANT that is missing
    coverage      stored event types that the code does not know, payloads that do not decode; coverage_findings says so
    code          projector code that changed since its tables were built
    left_behind   aggregates that were accepted as left behind
    tables        managed tables: missing, unlogged, orphaned, retired, left over

A check is a function from a connection (and the names it needs) to findings. It reads the catalogs and the store, writes nothing, and takes
no lock that a backup could block. ``sequent doctor`` shows the findings of all of them; at the start of each phase
:mod:`sequent_py.view_schema.guards` asks those that could make the phase wrong, and refuses.
"""

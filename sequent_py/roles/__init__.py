"""Roles: who may do what to a store and its managed tables, as four roles without a login.

::

    rules     what each role may do, as values                                        (pure)
    catalog   what the roles of a store may do now, and what of that differs          (reads)
    setup     ``sequent init --roles``: create the roles, hand over, grant, revoke    (owns ``store_roles``)
    assume    which of them a connection of ours works as
    lacking   which of them a login would have needed, when the server refuses it                (reads)

The *owner* owns the event store's schema and everything in it. The *migrator* owns the view schema and the managed tables, because only its
owner may rename or drop a table; it writes the bookkeeping, reads events and cannot write them. The *application* appends through the append
function, which runs with the owner's rights, and reads and writes the managed tables. The *reader* reads the managed tables.

The roles of a store are written down in its table ``store_roles``. A store without such rows works as it always did: with the rights
of whoever connects.
"""

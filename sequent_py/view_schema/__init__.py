"""Moving the view schema to a new version: declare, plan, build beside, swap.

A view migration is decided as a value before anything is done, recorded before it is begun, and done at the edges. The database is
authoritative for everything but the code's own declaration: any process on any host can go on where another died.

Pure::

    migrations                  what an application declares, checked
    plans, planner              what a view migration will do
    states, state_diagram       how far one can be, and what leads on
    table_files, script         the SQL of a table, and ``%SUFFIX%``
    blueprints, renames         what the objects of a table are called before and after the swap

Effects::

    versions, relations         own ``view_migrations`` and ``view_tables``, one each; what they share is in bookkeeping
    catalog, trial, executor    what the server has; the DDL of a plan, tried and run
    swap                        the one transaction that promotes
    context, planning, passes   what every command works with
    beginning, promotion        how a migration starts, and how it ends in a cut-over
    online, offline, golive     the commands, which rebuild offers as one object
    inspection, reports         what the commands say
"""

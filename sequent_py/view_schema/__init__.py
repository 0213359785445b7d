"""Moving the view schema to a new version: declare, plan, build beside, swap.

A view migration is decided as a value before anything is done, recorded before it is begun, and done at the edges. The database is
authoritative for everything but the code's own declaration: any process on any host can go on where another died.

Pure::

    migrations                  what an application declares, checked
    plans, planner              what a view migration will do
    rollback_plan               what a rollback will do
    states, state_diagram       how far one can be, and what leads on
    fingerprints, guards        what code rows depend on, and what is refused at the door

Rooms, each of which imports only from those below it::

    rebuild                     every command of a view migration, as one object
    inspection, lost_rows, repair   what commands say, and what can be mended without one
    retired/                    tables that a swap has retired: rollback, prune
    going_live/                 golive, offline, and what their cut-overs share
    building/                   online, worker, dry-run: passes until the shadow tables are complete
    comparison/                 verify, diff, the schema check, and what is let pass all the same
    planning, context           what every command works with
    bookkeeping/                owners of ``view_migrations`` and ``view_tables``
    ddl/                        the files of tables, tried and run; the executor; the swap
    tables/                     what the server has: names, catalogs, dependents, properties, blockers
"""

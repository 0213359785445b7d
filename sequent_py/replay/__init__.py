"""Replay: feeding history to projectors, exactly once per group, under any crash.

A *pass* replays one snapshot window ``(since, until]`` of the events; the first pass of a migration has no ``since``. A pass is cut into
*groups*, disjoint slices of the aggregates, and each group is a row of the ledger. A worker claims a row with ``FOR UPDATE SKIP LOCKED``,
folds the group's events in memory, writes the rows by COPY and marks the row done, all in one transaction::

      coordinator                 ledger (PostgreSQL)                  workers, any number, any host
      -----------                 -------------------                  -----------------------------
      take snapshot  ───────────► pass + groups, one transaction
      start workers                     ▲   │ claim (row lock)  ─────► read events of the slice
      watch progress ◄──────────────────┘   │                          fold, COPY into shadow tables
                                            ◄─ done + rows, commit ─── next

What holds under failure:

- A worker dies: its transaction rolls back, the row lock is gone, another worker claims the group.
- The coordinator dies: workers see their standard input close and exit; those of other hosts leave before their next group, because nobody
  holds the migration lock. Those that do not are *fenced*: the next coordinator terminates
  every backend that holds the worker lock and raises the epoch of the unfinished groups, so that nothing older can claim one.
- An event cannot be projected, or a table refuses its rows: the group rolls back, the event is named, or its aggregate set aside
  (``quarantine``). Refused rows are found when a group is written; ``violations`` writes it again in parts to learn whose they are.
- The server dies: what was committed is done, the rest is claimed again.

Before each group a worker asks the ``governor`` whether it may begin: a pause, the command's limits and the run that they are of stand in the database, for
workers on every host (``control``). Nothing waits in a transaction. Worker processes run where a ``pools`` protocol puts them; events may be read from a ``standby``.

The ledger is the only authority; processes hold nothing that is needed later.
"""

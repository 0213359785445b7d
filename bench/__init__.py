"""The benchmark suite: ``python -m bench``, or ``make bench``.

One run measures everything in turn, round after round, and reports medians: machines are noisy, so only figures of one run are compared.

::

    server       the throw-away server and its databases
    measure      seconds, CPU of Python and of PostgreSQL, memory, WAL and bytes read of one piece of work
    workloads/   histories, the application that projects them, and the same tables in plain SQL
    contenders/  who rebuilds those tables: this library, plain SQL, and two packages of PyPI
    stages       a workload of one size in a database of its own, and the contenders that take turns in it
    windows      what a window of new events costs on a large store and on a small one
    appending    appends and loads
    report       JSON, Markdown; plots draws

Beside it, programs with questions of their own: ``golive`` (what a cut-over costs those who write meanwhile), ``verify`` (the rate of ``verify --all``),
``catch_up`` (windows on stores of two sizes, under every ordering), ``indexes`` (appends and windows with and without candidate indexes of ``events``). Each runs by ``python -m bench.<name>`` from the checkout.
"""

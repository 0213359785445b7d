"""``sequent demo``: the main job on a database of its own, checked against plain SQL or against git.

Two demonstrations, both through the public API that any application uses::

    bank    load N events -> a second process begins to append -> plan, online, status, offline -> the process goes on for a while
            -> every account and every statement line is compared with an SQL aggregate over the payloads
    git     import a repository's history -> build version 1 -> migrate to version 2 while its last commits arrive by append
            -> the tables are compared with what ``git log --numstat`` prints

The modules, from values to effects::

    reports      what is measured and what was found, as frozen values; the protocol of who watches
    examples     where the example applications are
    bank_events  a deterministic history of a bank
    scratch      a database for one run, dropped at the end unless it is to be kept
    writer       the second process, seen from here; ``writer_process`` is its code
    session      what both do: timed phases, one version through online and offline
    bank, git    the two demonstrations
    bank_check, git_check    what the tables must hold, computed without any projector

Nothing outside the scratch database is written, except the directory of ``--keep``. Nothing here prints.
"""

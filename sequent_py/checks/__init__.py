"""Checks: rows against a fresh fold of their events, and two folds of the same events against each other.

=============  =======================================================================================
module         noun
=============  =======================================================================================
comparison     two relations of one shape, compared as multisets, differences paired by key
scratch        empty temporary copies of managed tables, to fold into
scratch_fold   events folded into them by the statements of the live persistor
plain          a persistor that keeps rows in dictionaries
plain_fold     events folded through it, and the rows copied into scratch tables
slices         disjoint parts of the aggregates: a range, or a list
staging        the events and rows of a slice, copied from one snapshot
omissions      which aggregates are not compared, table by table
checker        one slice: staged, folded, compared
determinism    one sample, folded together and apart; what differs, and in which handler
contention     another try after a deadlock
clock          another time for the modules of an application
worker         processes that check slices and fold samples
pool           several workers at once
=============  =======================================================================================

A slice is *staged*: in one REPEATABLE READ transaction of milliseconds its events and its rows are copied into temporary tables. An append
commits its events and their projection together, so whatever that transaction's snapshot is, it sees both or neither, and the copy
is consistent however busy the writers are. The fold, which costs many times as much, runs on the copies: it holds no snapshot, which
vacuum would wait for, and no lock on a table, which a cut-over would wait for.
"""

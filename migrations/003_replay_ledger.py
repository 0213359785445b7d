"""The replay ledger: passes over snapshot windows, and the groups of each pass."""


def up(op):
    op.run("""
        CREATE TABLE replay_passes (
            migration_id     bigint      NOT NULL REFERENCES view_migrations (id),
            number           integer     NOT NULL CHECK (number >= 0),
            snapshot_since   pg_snapshot NULL,
            snapshot_until   pg_snapshot NOT NULL,
            estimated_events bigint      NOT NULL CHECK (estimated_events >= 0),
            is_exact         boolean     NOT NULL,
            created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (migration_id, number),
            CONSTRAINT only_the_first_pass_has_no_since CHECK ((number = 0) = (snapshot_since IS NULL))
        );
        COMMENT ON TABLE replay_passes IS
            'One row per pass of a view migration: it replays the events visible in snapshot_until and not in snapshot_since.';

        CREATE TABLE replay_groups (
            migration_id     bigint           NOT NULL,
            pass             integer          NOT NULL,
            number           integer          NOT NULL,
            partition        integer          NULL,
            lower            uuid             NULL,
            upper            uuid             NULL,
            estimated_events bigint           NOT NULL,
            epoch            integer          NOT NULL,
            done_at          timestamptz      NULL,
            events           bigint           NULL,
            row_changes      jsonb            NULL,
            seconds          double precision NULL,
            worker           text             NULL,
            error            text             NULL,
            PRIMARY KEY (migration_id, pass, number),
            FOREIGN KEY (migration_id, pass) REFERENCES replay_passes (migration_id, number),
            CONSTRAINT done_groups_say_what_they_did
                CHECK ((done_at IS NULL) = (events IS NULL) AND (done_at IS NULL) = (row_changes IS NULL))
        );
        CREATE INDEX replay_groups_unfinished ON replay_groups (migration_id, estimated_events DESC) WHERE done_at IS NULL;
        COMMENT ON TABLE replay_groups IS
            'One row per disjoint slice of the aggregates; done in the transaction that wrote its rows.';
    """)


def down(op):
    op.run("DROP TABLE replay_groups; DROP TABLE replay_passes;")

import sqlalchemy as sa

from sequent_py.schema_migrations import SQLType


def change(op):
    op.create_table(
        "artists",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("x", sa.Integer),
        sa.Column("y", sa.Integer),
        sa.Column("bio", sa.Text),
        sa.Column("place", SQLType("point")),
    )
    op.create_table(
        "albums",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("p", sa.Integer),
        sa.Column("q", sa.Integer),
        sa.UniqueConstraint("p", "q"),
    )

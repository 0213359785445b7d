import sqlalchemy as sa


def change(op):
    op.create_table("a", sa.Column("a", sa.Integer))

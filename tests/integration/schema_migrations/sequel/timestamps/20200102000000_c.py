import sqlalchemy as sa


def change(op):
    op.create_table("c", sa.Column("a", sa.Integer))

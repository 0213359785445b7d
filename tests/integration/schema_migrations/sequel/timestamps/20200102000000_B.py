import sqlalchemy as sa


def change(op):
    op.create_table("b", sa.Column("a", sa.Integer))

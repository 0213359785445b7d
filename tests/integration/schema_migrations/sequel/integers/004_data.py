import sqlalchemy as sa


def up(op):
    op.run("INSERT INTO albums (title) VALUES ('100% :x')")
    op.drop_column("albums", "title")


def down(op):
    op.add_column("albums", sa.Column("title", sa.Text))
    op.run("DELETE FROM albums")

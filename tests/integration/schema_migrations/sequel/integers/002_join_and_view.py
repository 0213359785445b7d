import sqlalchemy as sa


def change(op):
    op.create_join_table(artist_id="artists", album_id="albums")
    op.create_view("named", "SELECT id, name FROM artists")
    op.create_view("counted", "SELECT count(*) AS n FROM artists", materialized=True)
    op.add_index("artists", "x")
    op.add_index("artists", ["x", "y"], unique=True, where="x = 1", name="some")
    op.add_column("albums", sa.Column("title", sa.Text))
    op.rename_column("artists", "bio", "biography")

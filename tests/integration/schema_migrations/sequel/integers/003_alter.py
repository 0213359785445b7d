import sqlalchemy as sa


def change(op):
    with op.alter_table("artists") as artists:
        artists.add_column("z", sa.Integer)
        artists.add_column("k", sa.Integer)
        artists.add_constraint("positive", "x > 0")
        artists.add_foreign_key("album_id", "albums")
        artists.add_foreign_key("other_id", "albums", name="other_fk")
        artists.add_foreign_key(["y"], "albums", name="y_fk")
        artists.add_foreign_key(["x", "z"], "albums", key=["p", "q"])
        artists.add_index(["y", "z"])
        artists.rename_column("k", "kk")
    op.create_table("keyless", sa.Column("a", sa.Text))
    with op.alter_table("keyless") as keyless:
        keyless.add_primary_key("id")
    op.rename_table("keyless", "keyed")

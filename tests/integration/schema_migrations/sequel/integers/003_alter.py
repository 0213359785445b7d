import sqlalchemy as sa


def change(op):
    with op.alter_table("artists") as artists:
        artists.add_column("z", sa.Integer)
        artists.add_constraint("positive", "x > 0")
        artists.add_foreign_key("album_id", "albums")
        artists.add_foreign_key("other_id", "albums", name="other_fk")
        artists.add_foreign_key(["y"], "albums", name="y_fk")
        artists.add_foreign_key(["x", "z"], "albums", key=["p", "q"])
        artists.add_index(["y", "z"])
        artists.add_full_text_index("name")
        artists.add_full_text_index(["name", "biography"], language="english", name="words")
        artists.add_spatial_index("place")
        artists.rename_column("z", "zz")
        artists.set_column_allow_null("name")
    op.create_table("keyless", sa.Column("a", sa.Text))
    with op.alter_table("keyless") as keyless:
        keyless.add_primary_key("id")
    op.rename_table("keyless", "keyed")

def change(op):
    with op.alter_table("artists") as artists:
        artists.add_full_text_index("name")
        artists.add_full_text_index(["name", "biography"], language="english", name="words")
        artists.add_spatial_index("place")
        artists.set_column_allow_null("name")
        artists.set_column_not_null("biography")

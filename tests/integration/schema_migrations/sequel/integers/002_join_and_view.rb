Sequel.migration do
  change do
    create_join_table(artist_id: :artists, album_id: :albums)
    create_view(:named, 'SELECT id, name FROM artists')
    create_view(:counted, 'SELECT count(*) AS n FROM artists', materialized: true)
    add_index :artists, :x
    add_index :artists, [:x, :y], unique: true, where: {x: 1}, name: :some
    add_column :albums, :title, :text
    rename_column :artists, :bio, :biography
  end
end

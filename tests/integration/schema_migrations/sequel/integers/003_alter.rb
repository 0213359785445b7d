Sequel.migration do
  change do
    alter_table(:artists) do
      add_column :z, :integer
      add_column :k, :integer
      add_constraint(:positive, Sequel.lit('x > 0'))
      add_foreign_key :album_id, :albums
      add_foreign_key :other_id, :albums, foreign_key_constraint_name: :other_fk
      add_foreign_key [:y], :albums, name: :y_fk
      add_foreign_key [:x, :z], :albums, key: [:p, :q]
      add_index [:y, :z]
      rename_column :k, :kk
    end
    create_table(:keyless) { column :a, :text }
    alter_table(:keyless) { add_primary_key :id }
    rename_table :keyless, :keyed
  end
end

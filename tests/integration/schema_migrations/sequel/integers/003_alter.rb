Sequel.migration do
  change do
    alter_table(:artists) do
      add_column :z, :integer
      add_constraint(:positive, Sequel.lit('x > 0'))
      add_foreign_key :album_id, :albums
      add_foreign_key :other_id, :albums, foreign_key_constraint_name: :other_fk
      add_foreign_key [:y], :albums, name: :y_fk
      add_foreign_key [:x, :z], :albums, key: [:p, :q]
      add_index [:y, :z]
      add_full_text_index :name
      add_full_text_index [:name, :biography], language: 'english', name: :words
      add_spatial_index :place
      rename_column :z, :zz
      set_column_allow_null :name
    end
    create_table(:keyless) { column :a, :text }
    alter_table(:keyless) { add_primary_key :id }
    rename_table :keyless, :keyed
  end
end

# With a down of its own: only newer versions of Sequel reverse these.
Sequel.migration do
  up do
    alter_table(:artists) do
      add_full_text_index :name
      add_full_text_index [:name, :biography], language: 'english', name: :words
      add_spatial_index :place
      set_column_allow_null :name
      set_column_not_null :biography
    end
  end
  down do
    alter_table(:artists) do
      set_column_allow_null :biography
      set_column_not_null :name
      drop_index :place
      drop_index nil, name: :words
      drop_index :name
    end
  end
end

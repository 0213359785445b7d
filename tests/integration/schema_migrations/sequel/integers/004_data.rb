Sequel.migration do
  up do
    run "INSERT INTO albums (title) VALUES ('100% :x')"
    drop_column :albums, :title
  end
  down do
    add_column :albums, :title, :text
    run 'DELETE FROM albums'
  end
end

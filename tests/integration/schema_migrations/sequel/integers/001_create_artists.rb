Sequel.migration do
  change do
    create_table(:artists) do
      primary_key :id
      column :name, :text, null: false
      column :x, :integer
      column :y, :integer
      column :bio, :text
      column :place, :point
    end
    create_table(:albums) do
      primary_key :id
      column :p, :integer
      column :q, :integer
      unique [:p, :q]
    end
  end
end

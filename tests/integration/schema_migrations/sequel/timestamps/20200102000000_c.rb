Sequel.migration do
  change { create_table(:c) { column :a, :integer } }
end

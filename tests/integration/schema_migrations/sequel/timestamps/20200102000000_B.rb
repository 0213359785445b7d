Sequel.migration do
  change { create_table(:b) { column :a, :integer } }
end

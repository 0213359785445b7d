Sequel.migration do
  change { create_table(:a) { column :a, :integer } }
end

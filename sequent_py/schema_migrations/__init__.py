"""Schema migrations: versioned files for ordinary tables, after the model of Ruby's Sequel."""

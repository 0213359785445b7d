"""The tables that view migrations manage, in the database: what they are called, what the catalogs say of them, what hangs on them and who is using them."""

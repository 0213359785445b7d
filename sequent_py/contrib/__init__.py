"""What needs packages of others: each module is an extra of this package, and nothing else imports it before it is asked for."""

# frozen_string_literal: true

# The bank of examples/bank for Ruby's Sequent: the same events, tables and rows.
#
#   ruby bank.rb install    creates the tables of its event store
#   ruby bank.rb online     builds the read side

require 'json'
require 'sequent'
require 'sequent/core/persistors/replay_optimized_postgres_persistor'

class AccountOpened < Sequent::Event
  attrs owner: String, currency: String
end

class MoneyDeposited < Sequent::Event
  attrs amount: Integer
end

class MoneyWithdrawn < Sequent::Event
  attrs amount: Integer
end

class TransferSent < Sequent::Event
  attrs amount: Integer, to_account: String
end

class TransferReceived < Sequent::Event
  attrs amount: Integer, from_account: String
end

class AccountClosed < Sequent::Event
end

class AccountRecord < Sequent::ApplicationRecord
  self.table_name = 'account_records'
  self.ignored_columns = %w[is_active]
end

class StatementRecord < Sequent::ApplicationRecord
  self.table_name = 'statement_records'
end

class AccountProjector < Sequent::Projector
  manages_tables AccountRecord

  on AccountOpened do |event|
    create_record(
      AccountRecord,
      aggregate_id: event.aggregate_id, owner: event.owner, currency: event.currency, balance: 0,
      transactions: 0, status: 'open', opened_at: event.created_at
    ) { |account| account.updated_at = event.created_at }
  end

  on MoneyDeposited, TransferReceived do |event|
    update_record(AccountRecord, event) do |account|
      account.balance += event.amount
      account.transactions += 1
    end
  end

  on MoneyWithdrawn, TransferSent do |event|
    update_record(AccountRecord, event) do |account|
      account.balance -= event.amount
      account.transactions += 1
    end
  end

  on AccountClosed do |event|
    update_record(AccountRecord, event) { |account| account.status = 'closed' }
  end
end

class StatementProjector < Sequent::Projector
  manages_tables StatementRecord

  on AccountOpened do |event|
    line(event, 'opened', 0, balance_before: 0)
  end

  on MoneyDeposited do |event|
    line(event, 'deposit', event.amount)
  end

  on MoneyWithdrawn do |event|
    line(event, 'withdrawal', -event.amount)
  end

  on TransferSent do |event|
    line(event, 'transfer', -event.amount, other_account: event.to_account)
  end

  on TransferReceived do |event|
    line(event, 'transfer', event.amount, other_account: event.from_account)
  end

  on AccountClosed do |event|
    line(event, 'closed', 0)
  end

  private

  def line(event, kind, amount, balance_before: nil, other_account: nil)
    balance_before ||= get_record!(
      StatementRecord, { aggregate_id: event.aggregate_id, sequence_number: event.sequence_number - 1 }
    ).balance
    create_record(
      StatementRecord,
      aggregate_id: event.aggregate_id, sequence_number: event.sequence_number, kind: kind, amount: amount,
      balance: balance_before + amount, other_account: other_account, booked_at: event.created_at
    )
  end
end

# Its look-up of the line before would go through all lines of an account without an index in memory on the number.
class BankPersistor < Sequent::Core::Persistors::ReplayOptimizedPostgresPersistor
  def initialize
    super(50, { StatementRecord => [[:sequence_number]] })
  end
end

class BankMigrations < Sequent::Migrations::Projectors
  def self.version
    1
  end

  def self.versions
    { '1' => [AccountProjector, StatementProjector] }
  end
end

# A task is a line of JSON on standard input. When all is ready this prints the CPU seconds it has used, and waits for another line.
TASK = JSON.parse($stdin.readline, symbolize_names: true)

CONFIG = {
  adapter: 'postgresql',
  schema_search_path: [TASK[:view_schema], TASK[:store_schema]].join(', '),
  **TASK[:connection],
}.with_indifferent_access

Sequent.configure do |config|
  config.migrations_class_name = 'BankMigrations'
  config.event_handlers = [AccountProjector.new, StatementProjector.new]
  config.migration_sql_files_directory = TASK[:sql_directory]
  config.view_schema_name = TASK[:view_schema]
  config.event_store_schema_name = TASK[:store_schema]
  config.number_of_replay_processes = TASK[:workers]
  config.online_replay_persistor_class = BankPersistor
  config.time_precision = 6
  config.logger = Logger.new($stderr, level: Logger::WARN)
end

def ready?
  puts Process.times.to_a.sum
  $stdout.flush
  !$stdin.gets.nil?
end

def install
  Sequent::Support::Database.establish_connection(CONFIG.merge(schema_search_path: TASK[:store_schema]))
  sources = File.dirname($LOADED_FEATURES.grep(%r{/lib/sequent/sequent\.rb\z}).first, 3)
  ActiveRecord::Migration.verbose = false
  load(File.join(sources, 'db/sequent_schema.rb')) if ready?
end

def online
  Sequent::Support::Database.establish_connection(CONFIG)
  schema = Sequent::Migrations::ViewSchema.new(db_config: CONFIG)
  schema.create_view_schema_if_not_exists
  schema.migrate_online if ready?
end

send(ARGV.fetch(0))

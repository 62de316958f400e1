// Package postgres is how PostgreSQL takes a batch of the log and forgets duplicates: rows of orders, their lines and
// payments, the gateway's answers and the stock. The tables are in schemas/postgres, the loop that fetches and
// commits is in sinks.
package postgres

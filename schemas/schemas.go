// Package schemas is the source of every shape at rest or on a wire. The messages are in proto (a buf module, from
// which internal/gen is generated), the tables in postgres, and a sample catalogue to begin with in sample.
package schemas

import "embed"

// Postgres holds the numbered migrations of the database, in the folder "postgres". sinks/postgres runs them.
//
//go:embed postgres/*.sql
var Postgres embed.FS

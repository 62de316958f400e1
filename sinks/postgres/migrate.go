package postgres

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"

	"github.com/millrace/millrace/schemas"
)

// versionTable is where tern notes how many migrations have run.
const versionTable = "public.schema_version"

// Migrate brings the database to the newest shape of schemas/postgres. Several processes may call it at once: they
// take turns behind an advisory lock, and all but the first find nothing to do. A database that is newer than this
// binary is an error.
func Migrate(ctx context.Context, conn *pgx.Conn) error {
	steps, err := fs.Sub(schemas.Postgres, "postgres")
	if err != nil {
		return err
	}
	m, err := migrate.NewMigrator(ctx, conn, versionTable)
	if err != nil {
		return fmt.Errorf("postgres: migrate: %w", err)
	}
	if err := m.LoadMigrations(steps); err != nil {
		return fmt.Errorf("postgres: migrate: %w", err)
	}
	if err := m.Migrate(ctx); err != nil {
		return fmt.Errorf("postgres: migrate: %w", err)
	}
	return nil
}

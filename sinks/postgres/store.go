package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/topics"
)

// Store is the database as a sink. The pool is its caller's.
type Store struct {
	pool  *pgxpool.Pool
	table *topics.Table
}

// New is the store of one table of topics. The database has been set up by Setup.
func New(pool *pgxpool.Pool, t *topics.Table) *Store { return &Store{pool, t} }

// Setup brings a database to the newest shape and sets the first position, 0, of every partition that has none: a
// database that has just been made holds nothing of the log. Positions that are there stay. Several processes may
// call it at once.
func Setup(ctx context.Context, url string, t *topics.Table) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := Migrate(ctx, conn); err != nil {
		return err
	}
	s := New(nil, t)
	for _, in := range s.Inputs() {
		_, err := conn.Exec(ctx, `INSERT INTO sink_offsets (consumer_group, topic, partition, next_offset)
			SELECT $1, $2, p, 0 FROM generate_series(0, $3::int - 1) p ON CONFLICT DO NOTHING`, s.group(), in.Topic.Name, in.Topic.Partitions)
		if err != nil {
			return fmt.Errorf("postgres: first positions: %w", err)
		}
	}
	return nil
}

// Group is the sink's consumer group.
func (s *Store) Group() string { return topics.PostgresSinkGroup }

func (s *Store) group() string { return s.table.Group(topics.PostgresSinkGroup) }

// Inputs are what the database holds a copy of.
func (s *Store) Inputs() []sinks.Input {
	return []sinks.Input{
		sinks.From(s.table.OrderEvents, readOrder),
		sinks.From(s.table.InventoryEvents, readStock),
		sinks.From(s.table.PaymentResults, readAttempt),
	}
}

// Follow keeps the topics' IDs beside the positions.
func (s *Store) Follow(ctx context.Context, ids map[string]string) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for topic, id := range ids {
			if _, err := tx.Exec(ctx, `UPDATE sink_offsets SET topic_id = $3 WHERE consumer_group = $1 AND topic = $2 AND topic_id = ''`, s.group(), topic, id); err != nil {
				return fmt.Errorf("postgres: follow %s: %w", topic, err)
			}
			var others int
			err := tx.QueryRow(ctx, `SELECT count(*) FROM sink_offsets WHERE consumer_group = $1 AND topic = $2 AND topic_id <> $3`, s.group(), topic, id).Scan(&others)
			if err != nil {
				return fmt.Errorf("postgres: follow %s: %w", topic, err)
			}
			if others > 0 {
				return fmt.Errorf("%w: sink_offsets follows another %s than the one with ID %s", sinks.ErrOtherLog, topic, id)
			}
		}
		return nil
	})
}

// Positions reads sink_offsets.
func (s *Store) Positions(ctx context.Context, places []sinks.Place) (map[sinks.Place]int64, error) {
	wanted := make(map[sinks.Place]bool, len(places))
	for _, p := range places {
		wanted[p] = true
	}
	rows, err := s.pool.Query(ctx, `SELECT topic, partition, next_offset FROM sink_offsets WHERE consumer_group = $1`, s.group())
	if err != nil {
		return nil, fmt.Errorf("postgres: positions: %w", err)
	}
	at := make(map[sinks.Place]int64, len(places))
	var p sinks.Place
	var next int64
	_, err = pgx.ForEachRow(rows, []any{&p.Topic, &p.Partition, &next}, func() error {
		if wanted[p] {
			at[p] = next
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: positions: %w", err)
	}
	return at, nil
}

// Write takes the batch in one transaction: the newest row of each key, sorted, one statement per table, all sent at
// once. The positions come first, so that a zombie waits for, and then finds, whoever has replaced it.
func (s *Store) Write(ctx context.Context, b sinks.Batch) error {
	statements := fold(b).statements()
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var batch pgx.Batch
		batch.Queue(settings)
		batch.Queue(movePositions, s.positionArgs(b)...).Exec(func(moved pgconn.CommandTag) error {
			if moved.RowsAffected() != int64(len(b)) {
				return sinks.ErrMoved
			}
			return nil
		})
		for _, st := range statements {
			batch.Queue(st.sql, st.args...)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err == nil || errors.Is(err, sinks.ErrMoved) {
		return err
	}
	if refuses(err) {
		return sinks.Refused{Err: err}
	}
	return fmt.Errorf("postgres: write: %w", err)
}

// settings hold for one transaction. Plans keep to index look-ups: they are made once, when the tables are empty and
// reading them whole looks cheap, and are kept while the tables grow. The commit waits for the disk: what a crash took
// back would be missing, or old, until the next event of the same partition shows that the position has moved back.
const settings = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
	set_config('enable_mergejoin', 'off', true), set_config('synchronous_commit', 'on', true)`

const movePositions = `UPDATE sink_offsets o SET next_offset = m.past
	FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) AS m (topic, partition, first, past)
	WHERE o.consumer_group = $1 AND o.topic = m.topic AND o.partition = m.partition AND o.next_offset = m.first`

func (s *Store) positionArgs(b sinks.Batch) []any {
	var (
		names       = make([]string, len(b))
		partitions  = make([]int32, len(b))
		first, past = make([]int64, len(b)), make([]int64, len(b))
	)
	for i, st := range b {
		names[i], partitions[i], first[i], past[i] = st.Topic, st.Partition, st.First, st.End
	}
	return []any{s.group(), names, partitions, first, past}
}

// refuses says whether the error is the data's fault: a key twice in one event (class 21), a value of no use (22), a
// constraint (23), or more than a row or an index takes (54). All else is the server's fault or ours, and the batch
// is tried again.
func refuses(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) < 2 {
		return false
	}
	switch pg.Code[:2] {
	case "21", "22", "23", "54":
		return true
	}
	return false
}

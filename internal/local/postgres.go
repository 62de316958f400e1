package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const postgresPart = "PostgreSQL"

// PostgresOptions say which PostgreSQL is wanted. The zero value is one on port 5433 or the next free one.
type PostgresOptions struct {
	Off      bool   // no Postgres at all
	External string // URL of one that already runs: nothing is started

	Port     int
	Settings map[string]string // more server settings, after ours
}

const (
	postgresPort = 5433 // 5432 often is an installed one's
	// postgresUser is the superuser and the database of a local stack.
	postgresUser = "millrace"
	// postgresRunAs is who runs the server when we are root: it refuses to run as root.
	postgresRunAs = "nobody"

	postgresReadyWait = 60 * time.Second
	postgresGrace     = 20 * time.Second
	postgresDataMB    = 200
)

// postgresServer is one data folder and how its server is reached.
type postgresServer struct {
	dir      string // the server's own; data/ inside
	native   string // bin, lib, share
	port     int
	password string
	owner    *syscall.Credential // nil: as we are
}

func startPostgres(ctx context.Context, b *builder) (started, error) {
	if b.Postgres.External != "" {
		return externalPostgres(ctx, b.Postgres.External)
	}
	owner, err := postgresOwner(b.Dir, b.cache.dir)
	if err != nil {
		return started{}, err
	}
	native, err := fetchPostgres(ctx, b.cache)
	if err != nil {
		return started{}, err
	}
	if err := wantDisk(postgresPart, b.Dir, postgresDataMB); err != nil {
		return started{}, err
	}
	pg := &postgresServer{dir: filepath.Join(b.Dir, "postgres"), native: native, owner: owner}
	if err := pg.prepare(ctx); err != nil {
		return started{}, fmt.Errorf("postgres: %w", err)
	}
	return retryPorts(func() (started, error) { return pg.start(ctx, b) })
}

func (pg *postgresServer) start(ctx context.Context, b *builder) (started, error) {
	port, err := b.ports.next(firstPort(b.Postgres.Port, postgresPort))
	if err != nil {
		return started{}, err
	}
	pg.port = port
	p := pg.process(b)
	if err := p.Start(ctx); err != nil {
		return started{}, err
	}
	if err := pg.makeDatabase(ctx); err != nil {
		return started{}, errors.Join(fmt.Errorf("postgres: %w", err), p.Kill9())
	}
	return started{
		part: Part{
			Name: "Postgres", Version: postgresPart + " " + postgresVersion, Kind: Real,
			Address: loopback(port), URL: pg.url(postgresUser), Log: p.log,
		},
		processes: []*Process{p},
	}, nil
}

// prepare makes the folder, its owner, its password and, the first time, its contents.
func (pg *postgresServer) prepare(ctx context.Context) error {
	if err := makeFolder(pg.dir); err != nil {
		return err
	}
	if err := pg.own(pg.dir); err != nil {
		return err
	}
	if err := pg.loadPassword(); err != nil {
		return err
	}
	if exists(filepath.Join(pg.data(), "PG_VERSION")) {
		return pg.clearStalePID()
	}
	return pg.initialise(ctx)
}

func (pg *postgresServer) data() string { return filepath.Join(pg.dir, "data") }

// postgresOwner is who the server runs as: we ourselves (nil), or, when we are root, a user who must be able to pass
// through the folders.
func postgresOwner(folders ...string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(postgresRunAs)
	if err != nil {
		return nil, &MissingError{Part: postgresPart, What: "a user to run as (there is no " + postgresRunAs + ", and it refuses to run as root)", Hint: "start millrace as an ordinary user"}
	}
	for _, dir := range folders {
		closed, err := closedAncestor(dir)
		if err != nil {
			return nil, err
		}
		if closed != "" {
			return nil, fmt.Errorf("postgres: as root, it runs as the user %s, who cannot pass through %s: name another folder (--data for data, MILLRACE_CACHE for fetched parts)", postgresRunAs, closed)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// loadPassword makes one up the first time: on a shared machine, everybody can reach a loopback port.
func (pg *postgresServer) loadPassword() error {
	path := filepath.Join(pg.dir, "password")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		pg.password = rand.Text()
		if err := os.WriteFile(path, []byte(pg.password), 0o600); err != nil {
			return err
		}
		return pg.own(path)
	}
	pg.password = string(raw)
	return err
}

// own gives a file or folder to the user that the server runs as.
func (pg *postgresServer) own(path string) error {
	if pg.owner == nil {
		return nil
	}
	return os.Chown(path, int(pg.owner.Uid), int(pg.owner.Gid))
}

// initialise runs initdb in a folder of another name, so that one that was interrupted is not taken for a database.
func (pg *postgresServer) initialise(ctx context.Context) error {
	making := pg.data() + ".new"
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(pg.native, "bin", "initdb"),
		"-D", making, "--username", postgresUser, "--pwfile", filepath.Join(pg.dir, "password"), "--auth", "scram-sha-256",
		"--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C", "--no-sync")
	cmd.Dir, cmd.Env = pg.dir, pg.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return os.Rename(making, pg.data())
}

// env keeps the libpq variables of whoever calls us (PGDATA, PGPORT) away from the server.
func (pg *postgresServer) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + pg.dir, "LC_ALL=C", "TZ=UTC"}
}

// clearStalePID removes the lock file of a server that is gone. After a crash of the machine its process ID may be
// another program's, and then Postgres would not start. We hold the data folder's lock, and orphans have been ended.
func (pg *postgresServer) clearStalePID() error {
	path := filepath.Join(pg.data(), "postmaster.pid")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _, _ := strings.Cut(string(raw), "\n")
	line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if err == nil && strings.Contains(string(line), pg.data()) {
		return fmt.Errorf("process %s runs on %s: end it first", pid, pg.data())
	}
	return os.Remove(path)
}

// postgresSettings make a small server that change data capture can read from, on loopback TCP only.
var postgresSettings = []string{
	"listen_addresses=127.0.0.1", "unix_socket_directories=", "wal_level=logical", "max_connections=200",
	"timezone=UTC", "log_timezone=UTC", "log_line_prefix=%m [%p] ",
}

func (pg *postgresServer) process(b *builder) *Process {
	args := []string{"-D", pg.data(), "-p", strconv.Itoa(pg.port)}
	for _, setting := range postgresSettings {
		args = append(args, "-c", setting)
	}
	var more []string
	for key, value := range b.Postgres.Settings {
		more = append(more, key+"="+value)
	}
	slices.Sort(more)
	for _, setting := range more {
		args = append(args, "-c", setting)
	}
	const name = "postgres"
	return &Process{command: command{
		name: name, path: filepath.Join(pg.native, "bin", "postgres"), args: args, env: pg.env(),
		dir: pg.dir, log: filepath.Join(pg.dir, "server.log"), record: b.record(name),
		user: pg.owner, detached: b.Detach, grace: postgresGrace,
		stopWith: syscall.SIGINT,  // fast: sessions are ended, not waited for
		dieWith:  syscall.SIGQUIT, // at once, its own children too; the log is replayed at the next start
		ready:    func(ctx context.Context) error { return askPostgres(ctx, pg.url("postgres")) }, readyWait: postgresReadyWait,
	}}
}

// makeDatabase adds ours to those that initdb makes.
func (pg *postgresServer) makeDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, pg.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var there bool
	const ask = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
	if err := conn.QueryRow(ctx, ask, postgresUser).Scan(&there); err != nil || there {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+postgresUser)
	return err
}

func (pg *postgresServer) url(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, pg.password), Host: loopback(pg.port),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

func askPostgres(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.Ping(ctx)
}

func externalPostgres(ctx context.Context, address string) (started, error) {
	u, err := url.Parse(address)
	if err != nil {
		return started{}, fmt.Errorf("postgres: %w", err)
	}
	if err := askPostgres(ctx, address); err != nil {
		return started{}, fmt.Errorf("postgres at %s does not answer: %w", u.Host, err)
	}
	return started{part: Part{Name: "Postgres", Version: "yours", Kind: External, Address: u.Host, URL: address}}, nil
}
